"""All that one training works with."""

from dataclasses import dataclass
from pathlib import Path

from ovam.train.options import TrainOptions
from ovam.train.segmenter import Start
from ovam.train.sources import Sources
from ovam.train.validation import Validation


@dataclass(frozen=True, eq=False)
class Task:
    """A training before it begins.

    Attributes:
        folder: Output folder.
        sources: Data sets.
        start: The model.
        validation: What it is validated on.
        options: How it is trained.
        device: `cpu`, or None for a GPU where there is one.
    """

    folder: Path
    sources: Sources
    start: Start
    validation: Validation
    options: TrainOptions
    device: str | None
