"""DAAM: the words' attention over all heads, in the run's own prompt where they stand in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ovam.errors import OptionError
from ovam.maps.calibration import stretched
from ovam.maps.compute import half_of
from ovam.maps.resize import resize
from ovam.maps.words import Listed, OptimisedTokens, names_of
from ovam.masks.result import Segmentation
from ovam.methods.base import Method, checked_words, thresholds_of
from ovam.methods.daam_mean import daam_mean
from ovam.methods.last_token import checked_template, without_middle
from ovam.methods.placed_words import PaddedPrompts, PlacedWord, placed_tokens
from ovam.methods.result import WordScores, segmentation_of
from ovam.precision import float32
from ovam.prompt import synonyms_of
from ovam.shapes import Map
from ovam.trace.blocks import ALL, finest_of, share_of
from ovam.trace.trace import Trace

Scale = Literal["greatest", "stretched"]
_NEVER = 8  # DAAM leaves blocks with an eighth of the finest grid's side out


@dataclass(frozen=True, kw_only=True)
class DAAM(Method):
    """DAAM: diffusion attentive attribution maps.

    A word's map is the mean over its tokens, all denoiser calls, and all heads of all blocks but the coarsest: those
    of 1/8 of the finest grid. Each head's map is enlarged on its own. The attention is that of the run's own prompt
    with its padding. DAAM has no maps of other words; here they get a prompt of their own.

    Attributes:
        threshold: Border in a word's map over its greatest value, as OVAM's authors evaluate DAAM.
        token_threshold: The same for fitted tokens.
        scale: "greatest" divides a map by its greatest value, after a bilinear enlargement, as OVAM's authors do.
            "stretched" is DAAM's own: bicubic, then stretched to [0, 1]; it has no published threshold.
        template: Attribution prompt of a word, which stands at its end. By default the run's own prompt if the word
            stands in it (the mean of all its places), and else the word alone.

    Source:
        Tang et al., ACL 2023 (arXiv:2210.04885); castorini/daam at 09564e0. Thresholds: vpulab/ovam at 12afd87,
        `experiments/evaluation/daam`.
    """

    name: ClassVar[str] = "daam"
    threshold: float = 0.4
    token_threshold: float = 0.8
    scale: Scale = "greatest"
    template: str | None = None

    @property
    def requires(self) -> dict[str, str]:
        """All blocks."""
        return {"blocks": ALL}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template is not None:
            checked_template(self.template)
        if self.scale not in get_args(Scale):
            raise OptionError(f"scale={self.scale!r}: expected one of {get_args(Scale)}")

    @float32()
    def segment(self, trace: Trace, words: Listed) -> Segmentation:
        """Return masks and a label map; see `Method.segment`."""
        entries = checked_words(words)
        half_of(trace, "cond")
        maps = self.maps(trace, entries)
        found = WordScores(maps.clamp_max(1), self._values(maps, trace.size), thresholds_of(entries, self))
        return segmentation_of(trace, entries, found)

    def maps(
        self, trace: Trace, entries: Sequence[str | OptimisedTokens]
    ) -> Float[Tensor, "word grid_height grid_width"]:
        """Return DAAM's map of each word and each class of fitted tokens, at the finest grid, at least 0."""
        trace, prompts = without_middle(trace), PaddedPrompts(trace.text)
        finest = finest_of(block.grid for block in trace.blocks.values())
        blocks = [name for name, block in trace.blocks.items() if share_of(block.grid, finest) != _NEVER]
        found: dict[str, list[Map]] = {}
        for together in _by_prompt([one for entry in entries for one in self._placed(trace, entry, prompts)]):
            rows = sorted({place for one in together for place in one.places})
            maps = daam_mean(trace, together[0].prompt, rows, blocks=blocks, size=finest)
            for one in together:
                found.setdefault(one.name, []).append(maps[[rows.index(place) for place in one.places]].mean(0))
        return torch.stack([torch.stack(found[name]).amax(0) for name in names_of(entries)])

    def _placed(self, trace: Trace, entry: str | OptimisedTokens, prompts: PaddedPrompts) -> list[PlacedWord]:
        if not isinstance(entry, str):
            return placed_tokens(trace.text, entry)
        return [prompts.placed(self._prompt_of(trace, word, prompts), word, entry) for word in synonyms_of(entry)]

    def _prompt_of(self, trace: Trace, word: str, prompts: PaddedPrompts) -> str:
        own = trace.source.prompt
        if self.template is None and own and prompts.places(own, word):
            return own
        return (self.template or "{}").format(word)

    def _values(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        if self.scale == "stretched":
            return stretched(F.interpolate(maps[None], size, mode="bicubic")[0])
        wide = resize(maps, size)
        return wide / wide.amax((-2, -1), keepdim=True).clamp_min(1e-12)


def _by_prompt(placed: Sequence[PlacedWord]) -> list[list[PlacedWord]]:
    """Return the words of each prompt together, since a prompt's attention is computed once."""
    groups: dict[int, list[PlacedWord]] = {}
    for one in placed:
        groups.setdefault(id(one.prompt), []).append(one)
    return list(groups.values())
