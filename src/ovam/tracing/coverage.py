"""Coverage of a capture: which blocks ran in which denoiser calls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from ovam.errors import SilentBlockError
from ovam.trace.calls import Call


@dataclass(frozen=True)
class RunCoverage:
    """Which chosen blocks ran in which denoiser calls of one run of the pipeline.

    Attributes:
        blocks: The watched blocks, in the order the model runs them: the chosen ones and, in joint attention, all
            blocks before the last chosen one. After them come the blocks whose self-attention is kept.
        calls: All denoiser calls of the run.
        seen: For each call, the blocks that ran in every pass of a kept half of guidance.
        kept: Indices of the calls whose queries are in the traces.
        complete: Whether the run reached its end.
    """

    blocks: tuple[str, ...]
    calls: tuple[Call, ...]
    seen: tuple[frozenset[str], ...]
    kept: tuple[int, ...]
    complete: bool = True

    @property
    def gaps(self) -> tuple[tuple[str, int], ...]:
        """Pairs (block, index of the call), one for each call in which a block did not run."""
        return tuple(
            (name, call.index)
            for name in self.blocks
            for call, there in zip(self.calls, self.seen, strict=True)
            if name not in there
        )

    def __str__(self) -> str:
        """Return a table with one line per block."""
        width = max((len(name) for name in self.blocks), default=5)
        kept = f"{len(self.kept)} kept: {ranges_of(self.kept) or 'none'}" + ("" if self.complete else "; broke off")
        lines = [f"{len(self.calls)} denoiser calls, {kept}", f"{'block':{width}}  {'seen':12}  not seen"]
        for name in self.blocks:
            there = [call.index for call, seen in zip(self.calls, self.seen, strict=True) if name in seen]
            missing = [call.index for call in self.calls if call.index not in there]
            lines.append(f"{name:{width}}  {ranges_of(there) or '-':12}  {ranges_of(missing) or '-'}")
        return "\n".join(lines)


class Coverage(Sequence[RunCoverage]):
    """The coverage of every run of a capture, in order; prints one small table per run."""

    def __init__(self, runs: Sequence[RunCoverage]) -> None:
        self._runs = tuple(runs)

    @property
    def gaps(self) -> tuple[tuple[str, int], ...]:
        """The gaps of all runs; empty if every watched block ran in every call."""
        return tuple(gap for run in self._runs for gap in run.gaps)

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[RunCoverage]:
        return iter(self._runs)

    @overload
    def __getitem__(self, index: int) -> RunCoverage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RunCoverage]: ...
    def __getitem__(self, index: int | slice) -> RunCoverage | Sequence[RunCoverage]:
        return self._runs[index]

    def __str__(self) -> str:
        return "\n\n".join(str(run) for run in self._runs) or "no run was seen"


def ranges_of(numbers: Sequence[int]) -> str:
    """Return ascending numbers in short form: 0-3, 5, 7-9."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def gap(silent: Sequence[str], watched: Sequence[str], where: str) -> SilentBlockError:
    """Return the error for blocks that did not run."""
    return SilentBlockError(
        f"{len(silent)} of the {len(watched)} watched blocks did not run {where}, such as {silent[0]!r}: expected all "
        "of them in every call; take off what skips or replaces blocks (caching, compiled blocks), choose other "
        "blocks, or leave such calls out with strict=False and look at traces.coverage"
    )
