"""What a run of the benchmarks was asked for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """See `python -m lab.performance --help`."""

    peer: Path | None
    quick: bool

    @property
    def pairs(self) -> int:
        """Pairs of a ratio; published ones have at least 11."""
        return 3 if self.quick else 11
