"""Choose the thresholds of optimised tokens on annotated pictures that the fit did not see."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64

from ovam.errors import AnnotationError
from ovam.maps.compute import attention_maps
from ovam.maps.options import MapOptions
from ovam.maps.thresholds import BORDER, LEAST, MOST, Thresholds
from ovam.masks.annotations import IGNORE, Annotation, MaskLike, annotation_of
from ovam.masks.masks import calibrated
from ovam.masks.presence import presences
from ovam.precision import float32
from ovam.refine.options import RefineChoice, refine_choice
from ovam.refine.self_attention import refined
from ovam.tokens.token_set import TokenSet
from ovam.trace.trace import Trace

TRIED = np.linspace(0.05, 0.95, 37)
"""Thresholds of masks that are tried."""

Counts = Int64[np.ndarray, "2 threshold"]
"""Pixels in both masks and in either, at each threshold."""


@float32()
def choose_thresholds(
    tokens: TokenSet,
    traces: Sequence[Trace],
    annotations: Sequence[Mapping[str, MaskLike] | Annotation],
    *,
    refine: RefineChoice = False,
) -> TokenSet:
    """Return the tokens with thresholds chosen on annotated pictures; `segment` then uses them by default.

    The mask's threshold is the one with the best IoU; the pixels of all pictures that show the class are counted
    together. The presence threshold is the one that best separates pictures with the class from pictures without: the
    share that is right is taken among each of the two, and the mean of both shares is highest. Give pictures that the
    fit did not see, ten or more of a class: a threshold chosen on one picture suits only that picture.

    Args:
        tokens: The tokens. Thresholds that they have already change nothing.
        traces: A trace of each picture.
        annotations: For each trace one mask per class, as in `ovam.optimize_tokens`; {} if the picture shows no class
            of the tokens. A class that is not in an annotation is absent from that picture.
        refine: Whether maps are refined first, as they will be when the tokens are used.

    Returns:
        The set with thresholds of each class that a picture shows. The presence threshold is None unless another
        picture lacks the class.

    Raises:
        AnnotationError: the numbers of traces and annotations differ, a mask can't be used, or no picture shows a class
            of the tokens.
        The errors of `Trace.maps` and, with `refine`, of `ovam.refine.self_attention.refined`.
    """
    if len(traces) != len(annotations) or not len(traces):
        raise AnnotationError(
            f"{len(annotations)} annotations were given for {len(traces)} traces: expected one for each, and one at "
            "least; {} for a picture that shows no class of the tokens"
        )
    given, options = tokens.with_thresholds({}), refine_choice(refine)
    both, there, gone = dict[str, Counts](), dict[str, list[float]](), dict[str, list[float]]()
    for trace, marks in zip(traces, annotations, strict=True):
        maps = attention_maps(trace, given, MapOptions())
        presence = presences(maps)
        scores = calibrated(maps if options is None else refined(maps, options)).numpy()
        masks, counted = _masks(marks, trace.size)
        for name, score in zip(given.classes, scores, strict=True):
            mask = masks.get(name.casefold())
            if mask is None:
                gone.setdefault(name, []).append(presence[name])
                continue
            there.setdefault(name, []).append(presence[name])
            both[name] = both.get(name, 0) + counts(score[counted], mask[counted])
    if not both:
        raise AnnotationError(
            f"no annotation shows {' or '.join(given.classes)}: expected pixels of a class of the tokens in one picture"
        )
    return given.with_thresholds(
        {
            name: Thresholds(
                mask=best_mask(both[name]),
                presence=best_presence(there[name], gone.get(name, ())),
                pictures=len(there[name]) + len(gone.get(name, ())),
                refined=options is not None,
            )
            for name in given.classes
            if name in both
        }
    )


def _masks(
    marks: Mapping[str, MaskLike] | Annotation, size: tuple[int, int]
) -> tuple[dict[str, Bool[np.ndarray, "height width"]], Bool[np.ndarray, "height width"]]:
    """Return the masks of the classes that have pixels, by their name in small letters, and the pixels that count."""
    if isinstance(marks, Mapping) and not marks:
        return {}, np.ones(size, dtype=bool)
    annotation = annotation_of(marks, size)
    masks = {name.casefold(): annotation.labels == i for i, name in enumerate(annotation.classes, start=1)}
    return {name: mask for name, mask in masks.items() if mask.any()}, annotation.labels != IGNORE


def counts(score: Float[np.ndarray, " pixel"], truth: Bool[np.ndarray, " pixel"]) -> Counts:
    """Return how many pixels are in both masks and in either, at each of the thresholds that are tried."""
    masks = score > TRIED[:, None]
    return np.stack([(masks & truth).sum(1), (masks | truth).sum(1)]).astype(np.int64)


def best_mask(found: Counts) -> float:
    """Return the threshold with the best IoU; if several are equally good, the one nearest to 0.5."""
    iou = found[0] / np.maximum(found[1], 1)
    best = np.flatnonzero(iou == iou.max())
    return float(TRIED[best[np.abs(TRIED[best] - BORDER).argmin()]])


def best_presence(there: Sequence[float], gone: Sequence[float]) -> float | None:
    """Return the presence that best separates pictures with a class from those without; the middle one if several do.

    Args:
        there: Presence of the class in pictures that show it.
        gone: Presence of the class in pictures that do not.

    Returns:
        A threshold in [0.01, 0.99], or None if one of the lists is empty.
    """
    if not len(there) or not len(gone):
        return None
    every = np.unique([0.0, *there, *gone, 1.0])
    tried = (every[1:] + every[:-1]) / 2
    seen = (np.asarray(there) >= tried[:, None]).mean(1)
    right = seen + (np.asarray(gone) < tried[:, None]).mean(1)
    best = np.flatnonzero(right == right.max())
    return float(np.clip(tried[best[len(best) // 2]], LEAST, MOST))
