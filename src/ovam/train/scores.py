"""What a model says of pictures: a score of each label at each pixel, whatever the model's kind."""

from typing import Any

import torch
from jaxtyping import Float, UInt8


def scores_of(output: Any) -> Float[torch.Tensor, "picture label high wide"]:
    """Scores from a model's output, at its own resolution, float32; only their order within a pixel means something.

    Args:
        output: Of a model of pixel classes (logits), or of one that predicts masks and their classes. The latter's
            masks are added up, each weighted by the probability of its class, as in the paper of MaskFormer.
    """
    if hasattr(output, "logits"):
        return output.logits.float()
    classes = output.class_queries_logits.float().softmax(-1)[..., :-1]  # the last one is "nothing"
    return torch.einsum("pql,pqhw->plhw", classes, output.masks_queries_logits.float().sigmoid())


def labels_at(
    scores: Float[torch.Tensor, "label high wide"], size: tuple[int, int]
) -> UInt8[torch.Tensor, "height width"]:
    """Label of each pixel of a picture: scores are brought to its size (height, width), and the highest one wins."""
    large = torch.nn.functional.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
    return large.argmax(0).to(torch.uint8)


def masks_and_classes(
    labels: torch.Tensor, count: int
) -> tuple[list[Float[torch.Tensor, "present height width"]], list[torch.Tensor]]:
    """Truths as a model of masks takes them: of each picture, the masks of the labels in it, and those labels.

    Ignored pixels are in no mask.

    Args:
        labels: (picture, height, width).
        count: Number of labels.
    """
    masks, classes = list[torch.Tensor](), list[torch.Tensor]()
    for each in labels:
        present = torch.unique(each)
        present = present[present < count]
        masks.append((each[None] == present[:, None, None]).float())
        classes.append(present)
    return masks, classes
