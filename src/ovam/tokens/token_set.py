"""A TokenSet: fitted vectors of classes in groups, each with its own background row; it can replace words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovam.errors import OptionError, SpaceMismatchError
from ovam.maps.calibration import Calibration
from ovam.maps.thresholds import Thresholds
from ovam.prompt import AttributionPrompt, Span
from ovam.shapes import Embedding
from ovam.trace.text_side import Space, TokenEmbedding

if TYPE_CHECKING:
    from ovam.trace.trace import Trace

BACKGROUND = "<background>"
"""Name of the row that takes the attention to everything else."""


@dataclass(frozen=True)
class Fit:
    """How a group was fitted. This is information only: no map depends on it.

    Attributes:
        model: Name of the model whose traces were used.
        pipeline: Class name of its pipeline.
        half: Half of guidance whose queries were used.
        blocks: Names of the blocks whose queries were used.
        timesteps: Time steps of the denoiser calls, for each annotation's trace.
        softmax_over: As in `Trace.maps`.
        aggregation: How maps were averaged.
        refinement: How maps were refined before calibration; "none" for now.
        losses: Loss of every evaluation of the fit, in order; empty for vectors made elsewhere.
        stopped: Why the fit ended.
        annotations: SHA-256 of each annotation, image and labels.
        remark: What else a user should know.
        versions: Versions of ovam and torch.
    """

    model: str
    pipeline: str = ""
    half: str = "cond"
    blocks: tuple[str, ...] = ()
    timesteps: tuple[tuple[float, ...], ...] = ()
    softmax_over: str = "prompt"
    aggregation: str = "mean"
    refinement: str = "none"
    losses: tuple[float, ...] = field(default=(), repr=False)
    stopped: str = ""
    annotations: tuple[str, ...] = ()
    remark: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def loss(self) -> float | None:
        """The least loss, which is that of the kept vectors; None if there is no finite one."""
        finite = [loss for loss in self.losses if loss == loss]
        return min(finite, default=None)


@dataclass(frozen=True, eq=False)
class TokenGroup:
    """Rows of one class or several that were fitted together and share the attention.

    Attributes:
        rows: Name of each row: `<background>` or a class.
        vectors: One vector per row, float32, in the set's space.
        calibrations: Calibrations by class; the map of a class without one is stretched like a word's.
        fit: How the vectors were fitted.
        licence: Licence of the vectors, in the words of the person who made them.
        thresholds: Thresholds by class, of classes that have some. `segment` uses them.
    """

    rows: tuple[str, ...]
    vectors: Embedding
    calibrations: Mapping[str, Calibration]
    fit: Fit
    licence: str | None = None
    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order."""
        return tuple(dict.fromkeys(row for row in self.rows if row != BACKGROUND))

    def prompt(self, space: Space) -> TokenEmbedding:
        """Return the group as its own attribution prompt."""
        spans = tuple(Span(name, tuple(i for i, r in enumerate(self.rows) if r == name)) for name in self.classes)
        return TokenEmbedding(self.vectors, AttributionPrompt("", self.rows, spans), space)


@dataclass(frozen=True, eq=False)
class TokenSet:
    """Optimised tokens: fitted vectors of classes. Each group is used as it was fitted, so merging changes no map.

    Attributes:
        groups: Groups in order; no class is in two of them.
        space: Space of the vectors: the exact input of the key path to which they belong.
    """

    groups: tuple[TokenGroup, ...]
    space: Space

    def __post_init__(self) -> None:
        names = Counter(name.casefold() for name in self.classes)
        twice = [name for name in self.classes if names[name.casefold()] > 1]
        if twice:
            raise OptionError(
                f"class {twice[0]!r} stands twice in this set of tokens: expected each class once; two "
                "tokens of one class stay in files of their own"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes, in order."""
        return tuple(name for group in self.groups for name in group.classes)

    @property
    def calibrations(self) -> dict[str, Calibration]:
        """Calibrations by class, for the classes that have one."""
        return {name: found for group in self.groups for name, found in group.calibrations.items()}

    @property
    def thresholds(self) -> dict[str, Thresholds]:
        """Thresholds by class, for the classes that have some."""
        return {name: found for group in self.groups for name, found in group.thresholds.items()}

    def with_thresholds(self, thresholds: Mapping[str, Thresholds]) -> "TokenSet":
        """Return the set with these thresholds instead of its own; classes that are not named have none.

        Raises:
            OptionError: a name is no class of the set.
        """
        strange = next((name for name in thresholds if name not in self.classes), None)
        if strange is not None:
            raise OptionError(f"{strange!r} is no class of these tokens: expected some of {', '.join(self.classes)}")
        groups = (
            replace(group, thresholds={name: thresholds[name] for name in group.classes if name in thresholds})
            for group in self.groups
        )
        return TokenSet(tuple(groups), self.space)

    def prompts(self) -> tuple[TokenEmbedding, ...]:
        """Return one attribution prompt per group."""
        return tuple(group.prompt(self.space) for group in self.groups)

    def merged(self, *others: "TokenSet") -> "TokenSet":
        """Return this set and others as one; every class keeps its map.

        Raises:
            SpaceMismatchError: a set belongs to another space.
            OptionError: a class is in two of them.
        """
        for other in others:
            if other.space != self.space:
                raise SpaceMismatchError(
                    f"tokens {', '.join(other.classes)} belong to {other.space}, tokens {', '.join(self.classes)} to "
                    f"{self.space}: expected sets of one text encoder; fit them again on one model"
                )
        return TokenSet((*self.groups, *(group for other in others for group in other.groups)), self.space)

    def notes(self, trace: "Trace") -> tuple[str, ...]:
        """Return what differs between the fits and this trace, as sentences; such a difference is never an error."""
        return self.notes_of(trace.source.model, tuple(trace.blocks))

    def notes_of(self, model: str, blocks: Sequence[str] | None) -> tuple[str, ...]:
        """Return what differs between the fits and a model and, if known, the blocks that will be used."""
        notes = []
        for group in self.groups:
            names, fit = ", ".join(group.classes), group.fit
            if fit.model and fit.model != model:
                notes.append(f"tokens {names}: fitted on {fit.model!r}, asked of {model!r}")
            if fit.blocks and blocks is not None and set(fit.blocks) != set(blocks):
                alike = len(set(fit.blocks) & set(blocks))
                notes.append(
                    f"tokens {names}: fitted on {len(fit.blocks)} blocks, asked of {len(blocks)}, {alike} of them alike"
                )
        return tuple(notes)

    def card(self) -> str:
        """Return a description of the set; see `ovam.tokens.card`."""
        from ovam.tokens.card import card

        return card(self)

    def save(self, path: str | Path) -> None:
        """Write the set to one safetensors file; see `ovam.tokens.store.save_tokens`."""
        from ovam.tokens.store import save_tokens

        save_tokens(self, path)

    @staticmethod
    def load(path: str | Path) -> "TokenSet":
        """Read a set back; see `ovam.tokens.store.load_tokens`."""
        from ovam.tokens.store import load_tokens

        return load_tokens(path)

    @staticmethod
    def from_pretrained(name: str | Path, **options: Any) -> "TokenSet":
        """Read a set from a folder or from the Hub; see `ovam.tokens.hub.from_pretrained`."""
        from ovam.tokens.hub import from_pretrained

        return from_pretrained(name, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the set with its card; see `ovam.tokens.hub.push_to_hub`."""
        from ovam.tokens.hub import push_to_hub

        return push_to_hub(self, repo_id, **options)


def merge(sets: Sequence[TokenSet]) -> TokenSet:
    """Return several sets as one; see `TokenSet.merged`."""
    return sets[0].merged(*sets[1:])
