"""Trials of what might carry one annotation further: each is the default fit of one class, but for what it names.

What wins on validation becomes the default of `ovam.optimize_tokens`; the others stay here, beside what they reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lab.rivals.harness import Fitted, Mask
from lab.rivals.spread import spread
from ovam.evaluate import average_precision
from ovam.maps.calibration import stretched
from ovam.maps.keys import key_groups, keys_of
from ovam.maps.resize import resize
from ovam.masks.annotations import annotation_of
from ovam.prompt import AttributionPrompt
from ovam.tokens.class_maps import ClassMaps, share_sums
from ovam.tokens.objective import Objective, target_on
from ovam.tokens.optimize import descend
from ovam.tokens.options import AGAINST, EVALUATIONS, PHRASES, PULL
from ovam.trace.text_side import TokenEmbedding
from ovam.trace.trace import Trace

Weighted = Literal["blocks", "heads"]


@dataclass(frozen=True)
class Trial:
    """What is done otherwise; these defaults are those of `optimize_tokens`.

    Attributes:
        rows: As in `optimize_tokens`.
        weighted: Each block, or each head of each block, has a weight in the mean, which is fitted with the vectors
            and drawn towards 1 by the same pull.
        heads: Share of all heads that are kept: those in which the word's own map fits the annotation best.
        spread: Maps are spread by the trace's averaged self-attention of this grid before they are stretched, when
            fitted and when asked (SLiMe, arXiv:2309.03179, spreads likewise).
        spread_asked: The same only when asked, of vectors and a border that were fitted without.
        pull: As in `optimize_tokens`.
    """

    rows: int = len(PHRASES)
    weighted: Weighted | None = None
    heads: float = 1.0
    spread: int | None = None
    spread_asked: int | None = None
    pull: float = PULL


class TrialObjective(Objective):
    """The objective of one class, with what a trial changes.

    Args:
        traces: Of the annotated images.
        masks: One a trace.
        name: The class.
        trial: What is changed.
    """

    def __init__(self, traces: Sequence[Trace], masks: Sequence[Mask], name: str, trial: Trial) -> None:
        marks = [annotation_of({name: mask}, trace.size) for trace, mask in zip(traces, masks, strict=True)]
        targets = [target_on(trace, mark, (name,)) for trace, mark in zip(traces, marks, strict=True)]
        against = [word for word in AGAINST if word != name]
        super().__init__(traces, targets, (name,), against=against, rows=trial.rows)
        self.trial, self.rivals = trial, len(against)
        heads = [block.heads for block in traces[0].blocks.values()]
        self.owner = torch.repeat_interleave(torch.tensor(heads))  # the block of each head
        self.weights = {None: 0, "blocks": len(heads), "heads": sum(heads)}[trial.weighted]
        self.kept = torch.ones(sum(heads))
        if trial.heads < 1:
            self.kept = self._best_heads(masks)

    @property
    def parameters(self) -> int:
        return super().parameters + self.weights

    def split(self, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().split(steps[: super().parameters])

    def maps(self, trace: Trace, steps: Tensor) -> ClassMaps:
        vectors, *_ = self.split(steps)
        shares = self._shares(steps)
        of_head = torch.stack(of_heads(trace, vectors, self.rivals))
        found = (shares[:, None, None] * of_head).sum(0, keepdim=True)
        return found if self.trial.spread is None else spread(trace, found, self.trial.spread)

    def _shares(self, steps: Tensor) -> Tensor:
        """Weight of each head in the mean, (head,), summing to 1."""
        chosen = self.kept
        if self.weights:
            fitted = (self.weights**0.5 * steps[super().parameters :]).exp()  # the pull is on their mean square as well
            chosen = chosen * (fitted[self.owner] if self.trial.weighted == "blocks" else fitted)
        return chosen / chosen.sum()

    @torch.no_grad()
    def _best_heads(self, masks: Sequence[Mask]) -> Tensor:
        """1 for the heads that are kept, else 0; ranked by the mean precision of the word's maps."""
        precision = np.zeros(len(self.owner))
        for trace, mask in zip(self.traces, masks, strict=True):
            for i, found in enumerate(of_heads(trace, self.start, self.rivals)):
                precision[i] += average_precision(mask, resize(found[None], trace.size)[0].numpy())
        count = max(1, round(self.trial.heads * len(precision)))
        kept = torch.zeros(len(precision))
        kept[np.argsort(-precision, kind="stable")[:count]] = 1
        return kept


def of_heads(trace: Trace, vectors: Tensor, rivals: int) -> list[Tensor]:
    """The class's map in each head of each block, at the finest grid: means over the steps, in [0, 1].

    Args:
        trace: Queries of one run.
        vectors: The background's rows, then the class's, whose shares are added.
        rivals: Number of the background's rows besides the first.
    """
    prompt = AttributionPrompt("", tuple(f"row {i}" for i in range(len(vectors))), ())
    embedding = TokenEmbedding(vectors, prompt, trace.text.space)
    found: dict[tuple[str, int], Tensor] = {}
    for kept_range, call in key_groups(trace.text, trace.calls):
        for name, key in keys_of(trace.text, [embedding], tuple(trace.blocks), call, "cond"):
            block = trace.blocks[name]
            for head in range(block.heads):
                own = slice(head, head + 1)
                sums = share_sums(block.query["cond"][own, kept_range], key[own], block.scale)[rivals:].sum(0)
                found[name, head] = found.get((name, head), torch.zeros(())) + sums / len(trace.calls)
    finest = max((block.grid for block in trace.blocks.values()), key=lambda grid: grid[0] * grid[1])
    return [resize(each.unflatten(-1, trace.blocks[name].grid)[None], finest)[0] for (name, _), each in found.items()]


def fit(trial: Trial, traces: Sequence[Trace], masks: Sequence[Mask], name: str) -> Fitted:
    """Fit a class as a trial says; what is asked later goes the same way."""
    objective = TrialObjective(traces, masks, name, trial)
    best, _, _ = descend(objective, EVALUATIONS, trial.pull / len(traces))
    _, calibrations = objective.unpacked(best)

    @torch.no_grad()
    def scores(trace: Trace) -> np.ndarray:
        maps = objective.maps(trace, best)
        if trial.spread_asked is not None:
            maps = spread(trace, maps, trial.spread_asked)
        fine = resize(stretched(maps), trace.size)[0]
        found: np.ndarray = calibrations[name](fine).numpy()
        return found

    return scores
