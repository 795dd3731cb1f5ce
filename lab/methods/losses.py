"""The losses of the trained methods: the matching of queries to masks, and what the matched and the others cost.

Source:
    Cheng et al., "Masked-attention Mask Transformer", CVPR 2022 (arXiv:2112.01527), as DatasetDM's authors use it: the
    loss of the last layer alone, 2 for the class, 5 each for the mask's cross entropy and dice.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ovam.methods.datasetdm_decoder import NOTHING, OUTPUTS

Scores = Float[Tensor, "query output"]
Masks = Float[Tensor, "mask height width"]
Points = Float[Tensor, "#mask point 2"]
Pairs = tuple[Int[Tensor, " matched"], Int[Tensor, " matched"]]


@dataclass(frozen=True)
class Weighing:
    """Numbers of the loss; the defaults are the published ones.

    Attributes:
        scores: Weight of the class, in the matching and in the loss.
        cross_entropy: Weight of the masks' cross entropy.
        dice: Weight of their dice loss.
        nothing: Weight of a query that should find no object.
        points: Points at which masks are compared.
        oversampling: Times as many points are drawn at first.
        uncertain: Share of the points that are those of the first where the mask is least certain; the rest are drawn
            anew.
    """

    scores: float = 2.0
    cross_entropy: float = 5.0
    dice: float = 5.0
    nothing: float = 0.1
    points: int = 12_544
    oversampling: int = 3
    uncertain: float = 0.75


PUBLISHED = Weighing()


def grounding_loss(
    log_odds: Float[Tensor, "word height width"],
    masks: Float[Tensor, "word height width"],
    known: Bool[Tensor, "height width"],
) -> Float[Tensor, ""]:
    """Return the binary cross entropy as in Grounded Diffusion: a mean over the known pixels, a sum over the words."""
    return F.binary_cross_entropy_with_logits(log_odds, masks, reduction="none")[:, known].mean(-1).sum()


@torch.no_grad()
def matched(
    scores: Scores,
    masks: Masks,
    classes: Int[Tensor, " target"],
    targets: Masks,
    points: Points,
    weighing: Weighing = PUBLISHED,
) -> Pairs:
    """Return queries and targets that belong together at the least total cost, each target with one query.

    Args:
        scores: Class scores before the softmax.
        masks: Log-odds of the queries' masks.
        classes: Class of each target.
        targets: Masks of the targets, of 0 and 1.
        points: Places at which masks are compared, the same for all; x and y in [0, 1].
        weighing: Numbers of the loss.
    """
    found, wanted = sampled(masks, points), sampled(targets, points)
    yes, no = F.softplus(-found), F.softplus(found)  # cross entropy of a point in the mask, and of one outside
    cross_entropy = (yes @ wanted.T + no @ (1 - wanted).T) / found.shape[1]
    likely = found.sigmoid()
    both = likely.sum(1)[:, None] + wanted.sum(1)[None]
    dice = 1 - (2 * likely @ wanted.T + 1) / (both + 1)
    cost = weighing.cross_entropy * cross_entropy + weighing.dice * dice
    cost = cost - weighing.scores * scores.softmax(-1)[:, classes]
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)


def decoder_loss(
    scores: Scores,
    masks: Masks,
    classes: Int[Tensor, " target"],
    targets: Masks,
    generator: torch.Generator,
    weighing: Weighing = PUBLISHED,
) -> Float[Tensor, ""]:
    """Return DatasetDM's loss of one picture; for the arguments see `matched`.

    Args:
        scores: Class scores before the softmax.
        masks: Log-odds of the queries' masks.
        classes: Class of each target.
        targets: Masks of the targets, of 0 and 1.
        generator: Draws the points.
        weighing: Numbers of the loss.
    """
    points = torch.rand(1, weighing.points, 2, generator=generator).to(masks)
    pairs = matched(scores, masks, classes, targets, points, weighing)
    chosen, wanted = masks[pairs[0]], targets[pairs[1]]
    places = uncertain_points(chosen, generator, weighing)
    cross_entropy, dice = mask_losses(sampled(chosen, places), sampled(wanted, places))
    whole = class_loss(scores, classes, pairs, weighing.nothing)
    return weighing.scores * whole + weighing.cross_entropy * cross_entropy + weighing.dice * dice


def class_loss(scores: Scores, classes: Int[Tensor, " target"], pairs: Pairs, nothing: float) -> Float[Tensor, ""]:
    """Return the weighted mean cross entropy of the queries' classes; queries without a target should find nothing."""
    wanted = torch.full((len(scores),), NOTHING, device=scores.device)
    wanted[pairs[0]] = classes[pairs[1]].to(wanted)
    weights = torch.ones(OUTPUTS, device=scores.device, dtype=scores.dtype)
    weights[NOTHING] = nothing
    return F.cross_entropy(scores, wanted, weights)


def mask_losses(
    log_odds: Float[Tensor, "mask point"], wanted: Float[Tensor, "mask point"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the cross entropy and the dice loss of matched masks at their points, means over the masks."""
    count = max(1, len(log_odds))
    cross_entropy = F.binary_cross_entropy_with_logits(log_odds, wanted, reduction="none").mean(1).sum() / count
    likely = log_odds.sigmoid()
    dice = 1 - (2 * (likely * wanted).sum(-1) + 1) / (likely.sum(-1) + wanted.sum(-1) + 1)
    return cross_entropy, dice.sum() / count


@torch.no_grad()
def uncertain_points(log_odds: Masks, generator: torch.Generator, weighing: Weighing = PUBLISHED) -> Points:
    """Return points of each mask, most of them where its log-odds are nearest to 0."""
    many, certain = weighing.points * weighing.oversampling, round(weighing.points * (1 - weighing.uncertain))
    drawn = torch.rand(len(log_odds), many, 2, generator=generator).to(log_odds)
    nearest = sampled(log_odds, drawn).abs().topk(weighing.points - certain, largest=False).indices
    more = torch.rand(len(log_odds), certain, 2, generator=generator).to(log_odds)
    return torch.cat([drawn.gather(1, nearest[..., None].expand(-1, -1, 2)), more], dim=1)


def sampled(maps: Masks, points: Points) -> Float[Tensor, "mask point"]:
    """Return the values of maps at points, bilinear; x and y run from 0 to 1 over the whole map."""
    places = (2 * points - 1).expand(len(maps), -1, -1)[:, :, None]
    return F.grid_sample(maps[:, None], places, mode="bilinear", align_corners=False)[:, 0, :, 0]
