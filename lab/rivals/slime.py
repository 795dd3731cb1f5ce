"""SLiMe (arXiv:2309.03179), written from its paper and from what its released code is seen to do, none of it copied.

SLiMe fits a row for each part by a cross entropy on the scores of cross-attention, plus a square error on their
shares once self-attention has spread them, plus a little of Stable Diffusion's own loss, with Adam. The background's
row is the start token as it is. Masks are read off maps spread in the same way.

What a trace cannot give is left out, for the word and for all others as well:

* Stable Diffusion's loss, with a weight of 0.005;
* new noise and another time step, of 5 to 100 out of 1000, in every iteration: all that a trace has are averaged;
* the four overlapping parts of the picture that masks are put together from: the whole is looked at once.

Of its blocks a trace has what was captured; SLiMe takes the first three of 16 x 16 and the first two of 32 x 32 pixels
on the way up of a picture of 512 x 512, and self-attention at 64 x 64, the finest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lab.rivals.harness import Fitted, Keep, Mask, Watch, bordered, descend, target_of, unwatched
from lab.rivals.spread import spread
from ovam.maps.calibration import stretched
from ovam.maps.keys import key_groups, keys_of
from ovam.maps.resize import resize
from ovam.prompt import AttributionPrompt
from ovam.trace.quantised import floats
from ovam.trace.text_side import TokenEmbedding
from ovam.trace.trace import Trace

_PROMPT = "part part"
"""What SLiMe's rows begin as where no words are given: one for the background, whose place the start token takes."""


@dataclass(frozen=True)
class Settings:
    """All that may be tuned; the defaults are SLiMe's.

    Attributes:
        rate: Of Adam.
        iterations: Number of steps.
        square: Weight of the square error.
        keep: Which vectors are returned; SLiMe chooses among its checkpoints, without validation images on those it
            was fitted to.
        size: Most cells of the loss along the height and width.
        blocks: By name; None takes those of the trace.
        least: A class whose map reaches it nowhere is not there.
        template: Prompt whose second token the class begins as; SLiMe knows no name of it.
        threshold: Of the class's spread share, stretched to [0, 1]; None compares both maps as published.
    """

    rate: float = 0.1
    iterations: int = 200
    square: float = 1.0
    keep: Keep = "best"
    size: int = 64
    blocks: tuple[str, ...] | None = None
    least: float = 0.2
    template: str = _PROMPT
    threshold: float | None = None


PUBLISHED = Settings()


def fit(
    traces: Sequence[Trace], masks: Sequence[Mask], word: str, settings: Settings, watch: Watch = unwatched
) -> Fitted:
    """Optimise a class row for one annotation, or several; arguments as in `authors.fit`."""
    vectors = descend(
        lambda row: objective(traces, masks, row, settings),
        start_row(traces[0], settings),
        lambda parameters: torch.optim.Adam(parameters, lr=settings.rate),
        iterations=settings.iterations,
        keep=settings.keep,
        watch=watch,
    )
    return fitted(vectors, settings)


def start_row(trace: Trace, settings: Settings) -> Tensor:
    """What the class begins as, (1, width)."""
    return trace.text.embed(settings.template).vectors[1:2].float().cpu()


def fitted(row: Tensor, settings: Settings) -> Fitted:
    """The scores of a class in any trace, from its row (1, width): above 0.5 where its map is above the other.

    With a threshold, where its stretched map is above that.
    """

    @torch.no_grad()
    def scores(trace: Trace) -> np.ndarray:
        if settings.threshold is not None:
            shares = _scores_of_both(trace, row, settings, _size(trace, settings)).softmax(0)
            wide = resize(spread(trace, shares[1:], _finest(trace)), trace.size)
            return bordered(stretched(wide)[0], settings.threshold)
        background, own = both_maps(trace, row, settings)
        found: np.ndarray = (own / (own + background).clamp(min=1e-9)).numpy()
        return found

    return scores


def both_maps(trace: Trace, row: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Maps of the background and of the class, each (height, width) of the image's size, as masks are read off them."""
    whole = trace.text.embed(settings.template, padded=True)
    vectors = whole.vectors.float().cpu().clone()
    vectors[1] = row[0]
    changed = TokenEmbedding(vectors, whole.prompt, trace.text.space)
    maps = _chosen(trace, settings).maps(changed).token_maps[:2]
    there = [i for i in range(2) if float(maps[i].max()) >= settings.least]
    found = [torch.zeros(trace.size), torch.zeros(trace.size)]
    for i in there:
        first = i == there[0]  # of what is there, as released: the background, unless it is not there
        kept = torch.where(maps[i] > maps[i].mean(), maps[i], 0.0) if first else maps[i]
        wide = resize(spread(trace, kept[None], _finest(trace)), trace.size)[0]
        low, high = maps[i].min(), maps[i].max()
        found[i] = low + (wide - wide.min()) * (high - low) / (wide.max() - wide.min()).clamp(min=1e-7)
    return found[0], found[1]


def objective(traces: Sequence[Trace], masks: Sequence[Mask], row: Tensor, settings: Settings) -> Tensor:
    """The loss of a class row (1, width), mean over annotations."""
    losses = []
    for trace, mask in zip(traces, masks, strict=True):
        size = _size(trace, settings)
        target = F.adaptive_avg_pool2d(target_of(mask)[None], size)[0].round()
        scores = _scores_of_both(trace, row, settings, size)
        wide = resize(spread(trace, scores.softmax(0), _finest(trace)), size)
        losses.append(loss_of(scores, wide, target, settings.square))
    return torch.stack(losses).mean()


def _scores_of_both(trace: Trace, row: Tensor, settings: Settings, size: tuple[int, int]) -> Tensor:
    """`mean_scores` of the start token and of the class's row."""
    background = trace.text.embed(settings.template).vectors[:1].float().cpu()
    return mean_scores(_chosen(trace, settings), torch.cat([background, row]), size)


def loss_of(scores: Tensor, shares: Tensor, target: Tensor, square: float) -> Tensor:
    """Cross entropy of scores (row, height, width), and the square error of spread shares, summed over both rows."""
    entropy = F.cross_entropy(scores[None], target[None].long())
    return entropy + square * (shares - torch.stack([1 - target, target])).square().sum(0).mean()


def mean_scores(trace: Trace, rows: Tensor, size: tuple[int, int]) -> Tensor:
    """Scaled dot products of queries and keys, (row, *size): mean over heads and steps, then over blocks."""
    names = tuple(f"row {i}" for i in range(len(rows)))
    embedding = TokenEmbedding(rows, AttributionPrompt("", names, ()), trace.text.space)
    found: dict[str, Tensor] = {}
    for kept_range, call in key_groups(trace.text, trace.calls):
        for name, key in keys_of(trace.text, [embedding], tuple(trace.blocks), call, "cond"):
            block = trace.blocks[name]
            query = floats(block.query["cond"][:, kept_range]).float().sum(1)  # the dot product is linear
            sums = (key @ query.mT).mean(0) * block.scale
            found[name] = found.get(name, torch.zeros(())) + sums / len(trace.calls)
    maps = [resize(each.unflatten(-1, trace.blocks[name].grid), size) for name, each in found.items()]
    return torch.stack(maps).mean(0)


def _chosen(trace: Trace, settings: Settings) -> Trace:
    return trace if settings.blocks is None else trace.select(blocks=list(settings.blocks))


def _size(trace: Trace, settings: Settings) -> tuple[int, int]:
    """Of the loss."""
    return (min(settings.size, trace.size[0]), min(settings.size, trace.size[1]))


def _finest(trace: Trace) -> int:
    return max(block.grid[0] for block in trace.self_attention.values())
