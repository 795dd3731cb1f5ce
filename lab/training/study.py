"""What is trained on what: the options of the study, its data sets and its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WORDS, TOKENS, REFINED, ORACLE = "words", "tokens", "refined", "oracle"
MASKS = (WORDS, TOKENS, REFINED, ORACLE)
"""Where the masks of the same generated pictures come from: maps of the words, maps of tokens, these refined and with
a CRF, and networks that were trained on exact masks."""

SELECTED, AT_RANDOM = "selected half", "random half"
"""Halves of the pictures with refined masks: those that two filters leave, by CLIP and by the changes of refinement and
CRF, and any."""

TEST, DOMAIN_B = "test", "domain b"
SETS = (TEST, DOMAIN_B)
"""What all are tested on: scenes of the same world with looks of their own, and of another one."""

MIXED = 50
"""Number of real scenes of the bars about mixing."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Options of the study.

    Attributes:
        classes: Names of the classes.
        real: Numbers of real scenes; the first ones of each are the annotations behind the tokens.
        pictures: Number of generated pictures.
        guidance: Weight of the prompt; with 7.5, the recipe's own default, mini often draws a thing twice.
        tested: Scenes of each test set.
        validation: Scenes that a training is judged on at its end, for its log; they choose nothing.
        steps: Steps of each training.
        batch_size: Pictures in a batch.
        rate: Highest learning rate.
        size: Side of the squares that are trained on.
        seeds: Seeds of each row: of weights, order and augmentations.
        evaluations: Evaluations of a token's fit; 0 for the product's own number.
        work_dir: Where data sets, models and results lie.
        device: "cpu", or "cuda".
        jobs: Processes that generate and train.
    """

    classes: tuple[str, ...]
    real: tuple[int, ...] = (20, 50, 100, 500)
    pictures: int = 2000
    guidance: float = 3.0
    tested: int = 200
    validation: int = 20
    steps: int = 2000
    batch_size: int = 16
    rate: float = 2e-3
    size: int = 64
    seeds: tuple[int, ...] = (0, 1, 2)
    evaluations: int = 0
    work_dir: Path = Path("runs/training")
    device: str = "cpu"
    jobs: int = 1

    @property
    def mixed(self) -> int:
        """Number of real scenes of the bars about mixing."""
        return MIXED if MIXED in self.real else self.real[0]


@dataclass(frozen=True)
class Row:
    """What a segmenter is trained on.

    Attributes:
        name: Of the row.
        data: Names of the data sets, which have equal shares of every batch.
        labels: Real scenes whose labels are behind it; None where an oracle saw far more.
    """

    name: str
    data: tuple[str, ...]
    labels: int | None


def real_name(count: int) -> str:
    """Name of a data set of real scenes, and of its row."""
    return f"real {count}"


def mixed_name(count: int, other: str) -> str:
    """Name of the row that mixes real scenes and generated pictures."""
    return f"{real_name(count)} + {other}"


def rows_of(study: Study) -> list[Row]:
    """The rows in the order of the report; all have the same steps, augmentations and seeds."""
    behind: dict[str, int | None] = {WORDS: 0, TOKENS: len(study.classes), REFINED: len(study.classes), ORACLE: None}
    alone = [Row(name, (name,), behind[name]) for name in MASKS]
    halves = [Row(name, (name,), behind[REFINED]) for name in (SELECTED, AT_RANDOM)]
    real = [Row(real_name(count), (real_name(count),), count) for count in study.real]
    mixed = [_mixed(count, REFINED) for count in study.real]
    return [*real, *alone, *halves, *mixed, _mixed(study.mixed, SELECTED)]


def _mixed(count: int, other: str) -> Row:
    return Row(mixed_name(count, other), (real_name(count), other), count)


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name).split())


def names_of(rows: Sequence[Row]) -> list[str]:
    """Names of all data sets that rows train on, each once."""
    return list(dict.fromkeys(name for row in rows for name in row.data))
