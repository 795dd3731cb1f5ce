"""OVAM as its authors published it, with what their released code does; not what this library does by default."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ovam.errors import NothingCapturedError, OptionError
from ovam.maps.options import MapOptions
from ovam.maps.resize import resize
from ovam.maps.words import Listed
from ovam.masks.result import Segmentation
from ovam.methods.base import Method, capture_line, checked_words, thresholds_of
from ovam.methods.hard_crf import hard_crf_choice
from ovam.methods.last_token import PHOTOGRAPH, checked_template, last_token_maps
from ovam.methods.result import WordScores, segmentation_of
from ovam.precision import float32
from ovam.refine.crf_options import CrfChoice
from ovam.trace.blocks import ALL
from ovam.trace.calls import Half
from ovam.trace.trace import Trace

Queries = Literal["first", "cond"]


@dataclass(frozen=True, kw_only=True)
class PublishedOVAM(Method):
    """OVAM with the pipeline of its authors' evaluation: the map over its greatest value, a threshold, a hard CRF.

    Two things of the released code are surprising, and are kept:

    * It reads the first half of a batch, which under guidance is the unconditional one. `queries="cond"` reads the
      half with the prompt.
    * Its self-attention is constant by construction. It averages values that are all 1, so every pixel gets the same
      number, and what is then stretched to [0.85, 1] is rounding noise. There is nothing to reproduce, so the factor is
      left out here; that is, it is 1.

    Attributes:
        threshold: Share of the map's greatest value above which a pixel is a word's; 0.5 in the authors' evaluation on
            COCO's captions.
        token_threshold: The same for tokens; there 0.8.
        crf: Whether a dense CRF on hard labels follows: True for the published numbers, or `CrfOptions`.
        queries: "first" is the first half of the batch, as published; a real image has only one. Or "cond".
        template: Attribution prompt of a word, which stands at its end. On COCO's captions it is the word alone: "{}".

    Source:
        Marcos-Manchon et al., CVPR 2024 (arXiv:2403.14291); vpulab/ovam at 12afd87, `experiments/evaluation/ovam_sa`,
        numbers of its set VOC-sim.
    """

    name: ClassVar[str] = "published-ovam"
    threshold: float = 0.4
    token_threshold: float = 0.75
    crf: CrfChoice = True
    queries: Queries = "first"
    template: str = PHOTOGRAPH

    def __post_init__(self) -> None:
        super().__post_init__()
        hard_crf_choice(self.crf)
        checked_template(self.template)
        if self.queries not in get_args(Queries):
            raise OptionError(f"queries={self.queries!r}: expected one of {get_args(Queries)}")

    @property
    def requires(self) -> dict[str, str]:
        """All blocks, and the unconditional half unless `queries` says otherwise."""
        return {"blocks": ALL} | ({"guidance": "uncond"} if self.queries == "first" else {})

    @float32()
    def segment(self, trace: Trace, words: Listed) -> Segmentation:
        """Return masks and a label map; see `Method.segment`."""
        entries = checked_words(words)
        maps = last_token_maps(trace, entries, self.template, MapOptions(guidance=self._half(trace)))
        wide = resize(maps, trace.size)
        values = wide / wide.amax((-2, -1), keepdim=True).clamp_min(1e-12)
        found = WordScores(maps, values, thresholds_of(entries, self))
        return segmentation_of(trace, entries, found, crf=hard_crf_choice(self.crf))

    def _half(self, trace: Trace) -> Half:
        """Return the half that stands first in a batch of this run.

        Raises:
            NothingCapturedError: it may have been the unconditional one, which the trace has not.
        """
        if self.queries == "cond" or trace.source.kind == "encoded":
            return "cond"
        if "uncond" not in trace.halves:
            raise NothingCapturedError(
                f"method {self.name!r} reads the unconditional half of guidance, as the authors' code does, and this "
                f"trace holds {', '.join(map(repr, trace.halves)) or 'no queries'}: use {capture_line(self)}; for a "
                "run without guidance, or to read the other half, use ovam.methods.PublishedOVAM(queries='cond')"
            )
        return "uncond"
