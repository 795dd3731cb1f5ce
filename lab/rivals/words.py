"""The annotation-free word, well normalised: its map stretched to [0, 1], and one threshold for all images.

There is nothing to fit. The threshold is handed in; it belongs chosen on validation images, as for every method.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lab.rivals.harness import Fitted, Mask, Watch, bordered, unwatched
from ovam.maps.calibration import stretched
from ovam.trace.trace import Trace


@dataclass(frozen=True)
class Settings:
    """How the word is asked.

    Attributes:
        threshold: Of the stretched map, in (0, 1).
        template: The attribution prompt; the word or phrase is one unit of it.
    """

    threshold: float
    template: str = "{}"


def fit(
    traces: Sequence[Trace], masks: Sequence[Mask], word: str, settings: Settings, watch: Watch = unwatched
) -> Fitted:
    """Embed the word; traces and masks are those of the other rivals, and no number depends on the masks."""
    begin = time.perf_counter()
    vectors = traces[0].text.embed(settings.template.format(word)).taken_rows()
    watch(0, time.perf_counter() - begin, vectors)
    return fitted(word, settings)


def fitted(word: str, settings: Settings) -> Fitted:
    """The scores of a word in any trace."""

    def scores(trace: Trace) -> np.ndarray:
        word_map = trace.maps(settings.template.format(word), phrases=[word]).resized()[word]
        return bordered(stretched(word_map), settings.threshold)

    return scores
