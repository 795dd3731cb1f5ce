"""Token optimisation: fit vectors of classes and of one background to annotations of one image or several."""

import functools
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from ovam.checks import listed
from ovam.errors import AnnotationError, MissingBlockError, NotFiniteError, OptionError, SpaceMismatchError
from ovam.keywords import options_as_keywords
from ovam.maps.compute import half_of
from ovam.masks.annotations import Annotation, MaskLike, annotation_of
from ovam.precision import float32
from ovam.tokens.objective import Objective, target_on
from ovam.tokens.options import FitOptions
from ovam.tokens.token_set import BACKGROUND, Fit, TokenGroup, TokenSet
from ovam.trace.calls import Half
from ovam.trace.text_side import Space
from ovam.trace.trace import Trace

_FLAT = 1e-6  # a smaller change of the loss ends the fit

Annotations = Mapping[str, MaskLike] | Annotation
log = logging.getLogger("ovam")


@float32()
def fit_tokens(
    traces: Trace | Sequence[Trace], annotations: Annotations | Sequence[Annotations], options: FitOptions
) -> TokenSet:
    """Fit a few vectors for each class and for the background, so that the classes' maps become their masks.

    All classes are fitted jointly, with one background that they share. Pixels that no mask covers are background. The
    vectors of a class start as the last token of its name, in a few phrases; the background starts as the start token.
    The map of a class is the sum of its rows' maps. The loss uses calibrated maps and fits the calibration's two
    numbers as well, so the border is at 0.5 (or where the most probable class changes) without tuning. Each
    quasi-Newton step (L-BFGS) reads the queries twice. The queries are not copied, and the model's weights get no
    gradients.

    Args:
        traces: Traces of one image or several, generated or encoded, all with the same text encoder.
        annotations: For each trace one mask per class, as in {"cat": mask}; `annotation_of` says what a mask may be.
            Masks have the image's size. A class that is not in an image's annotation is absent from that image.
        options: See `FitOptions`.

    Returns:
        The vectors with the least loss, in one group, without thresholds: `ovam.tokens.thresholds.choose_thresholds`
        chooses them on pictures that the fit did not see. If the loss stops being finite, the fit ends there, and
        `Fit.stopped` says where.

    Raises:
        AnnotationError: masks are missing or can't be used; see `annotation_of`.
        OptionError: an option has a value that is not allowed, or a class is in `against`.
        SpaceMismatchError: the traces have different text encoders.
        MissingBlockError, MissingStepError: a trace lacks a chosen block or step, or a block of another trace.
        NotFiniteError: the first loss is not finite.
        The errors of `Trace.maps` for the class names.
    """
    given, marks = _pairs(traces, annotations, options.reading)
    chosen = [trace.select(blocks=options.blocks, steps=options.steps) for trace in given]
    half = half_of(chosen[0], options.guidance)
    space = _check_alike(chosen, half)
    classes = tuple(dict.fromkeys(name for mark in marks for name in mark.classes))
    _check_spelling(classes, marks)
    _check_shown(classes, marks)
    rivals, rows = options.rivals(classes), options.rows
    targets = [target_on(trace, mark, classes) for trace, mark in zip(chosen, marks, strict=True)]
    objective = Objective(
        chosen,
        targets,
        classes,
        against=rivals,
        rows=rows,
        half=half,
        distance=options.distance,
        pulled=options.pull > 0,
    )
    best, losses, stopped = descend(objective, options.evaluations, options.pull / len(chosen))
    vectors, calibrations = objective.unpacked(best)
    fit = Fit(
        model=chosen[0].source.model,
        pipeline=chosen[0].source.pipeline,
        half=half,
        blocks=tuple(chosen[0].blocks),
        timesteps=tuple(tuple(call.timestep for call in trace.calls) for trace in chosen),
        losses=tuple(losses),
        stopped=stopped,
        annotations=tuple(mark.digest(trace) for trace, mark in zip(chosen, marks, strict=True)),
        versions=_versions(),
    )
    names = (*[BACKGROUND] * (1 + len(rivals)), *(name for name in classes for _ in range(rows)))
    return TokenSet((TokenGroup(names, vectors, calibrations, fit, options.licence),), space)


optimize_tokens = options_as_keywords(FitOptions, name="optimize_tokens")(fit_tokens)
"""`fit_tokens` with its options as keywords."""


class _NotFiniteLossError(Exception):
    """Stops the optimiser: the loss is not finite."""


class _SpentError(Exception):
    """Stops the optimiser after the last evaluation; by itself it would first finish a line search."""


def descend(objective: Objective, evaluations: int, pull: float) -> tuple[Tensor, list[float], str]:
    """Return the steps with the least loss, the loss of every evaluation, and why the descent ended.

    Raises:
        NotFiniteError: the first loss is not finite.
    """
    steps = torch.zeros(objective.parameters, requires_grad=True)
    losses, best = list[float](), steps.detach().clone()

    def evaluate() -> Tensor:
        nonlocal best
        if len(losses) == evaluations:
            raise _SpentError
        loss = objective.loss(steps, pull)
        losses.append(float(loss.detach()))
        if not bool(torch.isfinite(loss)):
            raise _NotFiniteLossError
        if losses[-1] <= min(losses):
            best = steps.detach().clone()
        (steps.grad,) = torch.autograd.grad(loss, [steps])  # `backward` would also reach the model's weights
        if not bool(torch.isfinite(steps.grad).all()):
            raise _NotFiniteLossError
        return loss

    optimizer = torch.optim.LBFGS(
        [steps],
        max_iter=evaluations,
        max_eval=evaluations,
        tolerance_change=_FLAT,
        line_search_fn="strong_wolfe",
    )
    try:
        optimizer.step(evaluate)
    except _SpentError:
        pass
    except _NotFiniteLossError:
        where = f"{objective.culprit(steps.detach())}, at evaluation {len(losses)}"
        if len(losses) == 1:
            raise NotFiniteError(
                f"the loss is not finite {where}: expected finite numbers; the model's weights are damaged, or the "
                "range of the dtype is too small for this model (load the model in torch.float32, and capture with "
                "dtype=torch.float32)"
            ) from None
        log.warning("token optimisation ended early, not finite %s; the best vectors before it are kept", where)
        return best, losses, f"not finite {where}"
    return best, losses, "converged" if len(losses) < evaluations else f"after {len(losses)} evaluations"


@functools.cache
def _versions() -> dict[str, str]:
    """Return the versions that a fit depends on; cached, as a look-up takes as long as a small model's evaluation."""
    return {package: version(package) for package in ("ovam", "torch")}


def _pairs(
    traces: Trace | Sequence[Trace], annotations: Annotations | Sequence[Annotations], reading: Mapping[str, Any]
) -> tuple[list[Trace], list[Annotation]]:
    chosen = [traces] if isinstance(traces, Trace) else listed("traces", traces)
    given = [annotations] if isinstance(annotations, Mapping | Annotation) else listed("annotations", annotations)
    for each in chosen:
        if not isinstance(each, Trace):
            raise OptionError(f"traces have a {type(each).__name__} among them: expected traces")
    if len(chosen) != len(given) or not chosen:
        raise AnnotationError(
            f"{len(given)} annotations were given for {len(chosen)} traces: expected one for each, and one at least"
        )
    return chosen, [annotation_of(mark, trace.size, **reading) for trace, mark in zip(chosen, given, strict=True)]


def _check_alike(traces: Sequence[Trace], half: Half) -> Space:
    """Check that all traces have the same space and blocks; return the space."""
    first = traces[0]
    for i, trace in enumerate(traces):
        half_of(trace, half)
        if trace.text.space != first.text.space:
            raise SpaceMismatchError(
                f"trace {i} has the text encoder {trace.text.space}, trace 0 has {first.text.space}: expected traces "
                "of one text encoder; fit the others by themselves"
            )
        lacking = [name for name in first.blocks if name not in trace.blocks]
        lacking += [name for name in trace.blocks if name not in first.blocks]
        if lacking:
            raise MissingBlockError(
                f"block {lacking[0]!r} is in trace 0 or in trace {i}, not in both: expected the same blocks in all "
                "traces of a fit; choose those that all have, with blocks=[...]"
            )
    return first.text.space


def _check_spelling(classes: Sequence[str], marks: Sequence[Annotation]) -> None:
    """Check that no two classes differ only in capitals, which most text encoders ignore."""
    first: dict[str, str] = {}
    for name in classes:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            where = [next(i for i, mark in enumerate(marks) if each in mark.classes) for each in (other, name)]
            raise AnnotationError(
                f"class {other!r} of annotation {where[0]} is {name!r} in annotation {where[1]}: expected one spelling "
                "of a class; names that differ only in capitals are the same class"
            )


def _check_shown(classes: Sequence[str], marks: Sequence[Annotation]) -> None:
    for name in classes:
        shown = any((mark.labels == mark.classes.index(name) + 1).any() for mark in marks if name in mark.classes)
        if not shown:
            raise AnnotationError(f"class {name!r} is on no annotation: expected pixels of it on one at least")
