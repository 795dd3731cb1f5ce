"""What a fit minimises: the loss of a few classes' vectors and calibrations on annotations, from its start on."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ovam.maps.calibration import Calibration, logits, stretched
from ovam.masks.annotations import Annotation, target_of
from ovam.shapes import Embedding
from ovam.tokens.class_maps import ClassMaps, class_maps
from ovam.tokens.loss import Logits, Target, loss_of
from ovam.tokens.options import PHRASES
from ovam.trace.calls import Half
from ovam.trace.phrases import embed_phrases
from ovam.trace.trace import Trace

_BORDER = 0.6  # border on the stretched map at the start
_LEAST_SCALE = 4.0  # flatter calibrations have no clear border
_BEGIN = 0.5413  # where softplus is 1: the fit begins with twice the least scale
_STIFF = 10.0  # weight of the calibrations' steps in the pull: one annotation says little about other images' borders
_FINER = 2  # cells of the loss along each side of a cell of the finest grid


class Objective:
    """The loss as a function of one flat vector of steps away from the start.

    The steps are scaled so that the pull is a plain square. Without this scaling, the pull would make the loss about
    ten thousand times more curved along the calibrations than along the vectors (on mini). With equal curvature the
    descent needs a third of the evaluations. Without a pull (`pulled=False`) the calibrations take longer steps; with
    short steps, fits with sharp attention did not find the mask.
    """

    def __init__(
        self,
        traces: Sequence[Trace],
        targets: Sequence[Target],
        classes: Sequence[str],
        *,
        against: Sequence[str] = (),
        rows: int = len(PHRASES),
        half: Half = "cond",
        distance: float = 1.0,
        pulled: bool = True,
    ) -> None:
        self.traces, self.targets, self.classes, self.rows, self.half = traces, targets, classes, rows, half
        phrases = [phrase.format(name) for name in classes for phrase in PHRASES[:rows]]
        words, spread = start_of(traces[0], [*against, *phrases])
        self.held = (2 * len(classes) / _STIFF) ** 0.5 if pulled else 1.0
        self.start, self.unit = words[:1] + distance * (words - words[:1]), distance * spread

    @property
    def parameters(self) -> int:
        return self.start.numel() + 2 * len(self.classes)

    def split(self, steps: Tensor) -> tuple[Embedding, Tensor, Tensor]:
        """Return vectors (row, width), and the calibrations' scales and offsets (class,)."""
        count = len(self.classes)
        rows, steepness, borders = steps.split([self.start.numel(), count, count])
        rows, steepness, borders = self.start.numel() ** 0.5 * rows, self.held * steepness, self.held * borders
        scales = _LEAST_SCALE * (1 + F.softplus(_BEGIN + steepness))
        offsets = -scales * (math.log(_BORDER / (1 - _BORDER)) + borders).sigmoid()  # within the map's range
        return self.start + self.unit * rows.view_as(self.start), scales, offsets

    def unpacked(self, steps: Tensor) -> tuple[Embedding, dict[str, Calibration]]:
        """Return vectors and calibrations for a TokenGroup."""
        vectors, scales, offsets = self.split(steps)
        found = zip(self.classes, scales.tolist(), offsets.tolist(), strict=True)
        return vectors, {name: Calibration(scale, offset) for name, scale, offset in found}

    def maps(self, trace: Trace, steps: Tensor) -> ClassMaps:
        """Return the classes' maps in a trace, at its finest grid, before calibration."""
        vectors, *_ = self.split(steps)
        of_rows = class_maps(trace, vectors, self.half)[-len(self.classes) * self.rows :]
        return of_rows.unflatten(0, (len(self.classes), self.rows)).sum(1)

    def logits(self, steps: Tensor) -> list[Logits]:
        """Return the log-odds of every class, one stack per annotation, on the lattice of its target."""
        _, scales, offsets = self.split(steps)
        found = []
        for trace, target in zip(self.traces, self.targets, strict=True):
            maps = stretched(self.maps(trace, steps))
            size = (target.weight.shape[0], target.weight.shape[1])
            finer = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
            found.append(logits(finer, scales[:, None, None], offsets[:, None, None]))
        return found

    def strain(self, steps: Tensor) -> Float[Tensor, ""]:
        """Return what the pull penalises: mean squares of the changes that `split` makes, calibrations ten times."""
        return steps.square().sum()

    def loss(self, steps: Tensor, pull: float) -> Float[Tensor, ""]:
        return loss_of(self.logits(steps), self.targets) + pull * self.strain(steps)

    @torch.no_grad()
    def culprit(self, steps: Tensor) -> str:
        """Return where numbers are not finite, as text."""
        vectors, *_ = self.split(steps)
        if not bool(torch.isfinite(vectors).all()):
            return "in the vectors themselves"
        for i, trace in enumerate(self.traces):
            for name in trace.blocks:
                if not bool(torch.isfinite(class_maps(trace.select(blocks=[name]), vectors, self.half)).all()):
                    return f"in the maps of block {name!r} of annotation {i}"
        return "in the loss of finite maps"


@torch.no_grad()
def start_of(trace: Trace, words: Sequence[str]) -> tuple[Embedding, float]:
    """Return the start of a fit: the background's row, then the last token of each word; and the words' spread.

    The background starts as the start token, which has no meaning of its own. If the tokenizer has no start token, it
    starts as the end token.
    """
    prompts = embed_phrases(trace.text, words)
    first = prompts[0]
    tokens, vectors = first.prompt.tokens, first.taken_rows()
    background = vectors[0] if tokens[0] == "<start>" else vectors[-1]
    rows = torch.stack([background, *(prompt.taken_rows()[prompt.prompt.spans[0].tokens[-1]] for prompt in prompts)])
    return rows.float().cpu(), float(rows[1:].float().std())


def target_on(trace: Trace, annotation: Annotation, classes: Sequence[str]) -> Target:
    """Return an annotation on the lattice of the loss: twice the trace's finest grid, at most the image's size."""
    finest = max((block.grid for block in trace.blocks.values()), key=lambda grid: grid[0] * grid[1])
    size = (min(trace.size[0], _FINER * finest[0]), min(trace.size[1], _FINER * finest[1]))
    return Target(*target_of(annotation, classes, size))
