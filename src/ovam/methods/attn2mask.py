"""Attn2Mask: the map of one denoiser call, stretched, against a background that is its opposite."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ovam.maps.calibration import stretched
from ovam.maps.options import MapOptions
from ovam.maps.resize import resize
from ovam.maps.words import Listed
from ovam.masks.result import Segmentation
from ovam.methods.base import Method, checked_words, thresholds_of
from ovam.methods.hard_crf import hard_crf_choice
from ovam.methods.last_token import PHOTOGRAPH, checked_template, last_token_maps
from ovam.methods.result import WordScores, segmentation_of
from ovam.precision import float32
from ovam.refine.crf_options import CrfChoice
from ovam.trace.blocks import ALL
from ovam.trace.calls import StepChoice, step_numbers
from ovam.trace.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Attn2Mask(Method):
    """Attn2Mask, as OVAM's authors wrote it anew; its own authors have released no code.

    The map h of the middle denoiser call is stretched to [0, 1]. The background is 1 - h - beta, and the larger of the
    two wins a pixel: the word is where h exceeds (1 - beta) / 2.

    Attributes:
        threshold: (1 - beta) / 2 of a word, in (0, 1); beta was 0.2.
        token_threshold: The same for tokens; beta was -0.2.
        crf: Whether a dense CRF on hard labels follows: True for the published numbers, or `CrfOptions`. The released
            evaluation uses it for pictures of COCO's captions and leaves it out for pictures of simple prompts.
        steps: The denoiser call, as a step; published is number 50 of 100. Several calls give their mean.
        template: Attribution prompt of a word, which stands at its end.

    Source:
        Yoshihashi et al. (arXiv:2309.01369), in the form of vpulab/ovam at 12afd87, `experiments/attn2mask` and
        `experiments/evaluation/attn2mask`. It is assumed to use the conditional half of
        guidance.
    """

    name: ClassVar[str] = "attn2mask"
    threshold: float = 0.4
    token_threshold: float = 0.6
    crf: CrfChoice = False
    steps: StepChoice = "middle"
    template: str = PHOTOGRAPH

    def __post_init__(self) -> None:
        super().__post_init__()
        hard_crf_choice(self.crf)
        checked_template(self.template)
        object.__setattr__(self, "steps", step_numbers(self.steps))

    @property
    def beta(self) -> float:
        """Beta of a word: how much of the background is taken off before it competes."""
        return 1 - 2 * self.threshold

    @property
    def token_beta(self) -> float:
        """Beta of fitted tokens."""
        return 1 - 2 * self.token_threshold

    @property
    def requires(self) -> dict[str, Any]:
        """All blocks; only this method's step is needed, but a trace of all steps works too."""
        return {"blocks": ALL, "steps": self.steps}

    @float32()
    def segment(self, trace: Trace, words: Listed) -> Segmentation:
        """Return masks and a label map; see `Method.segment`."""
        entries = checked_words(words)
        maps = last_token_maps(trace, entries, self.template, MapOptions(steps=self.steps))
        values = resize(stretched(maps), trace.size)
        found = WordScores(maps, values, thresholds_of(entries, self))
        return segmentation_of(trace, entries, found, crf=hard_crf_choice(self.crf))
