"""Turn the output of any kind of model into a score of each label at each pixel."""

from typing import Any

import torch
from jaxtyping import Float, UInt8


def scores_of(output: Any) -> Float[torch.Tensor, "picture label high wide"]:
    """Return the scores in a model's output, at its own resolution, float32; only their order at a pixel has a meaning.

    Args:
        output: Output of a model that predicts the class of each pixel (logits), or masks and their classes. Such masks
            are added up, each weighted by the probability of its class, as in the paper of MaskFormer.
    """
    if hasattr(output, "logits"):
        return output.logits.float()
    classes = output.class_queries_logits.float().softmax(-1)[..., :-1]  # the last one is "nothing"
    return torch.einsum("pql,pqhw->plhw", classes, output.masks_queries_logits.float().sigmoid())


def labels_at(
    scores: Float[torch.Tensor, "label high wide"], size: tuple[int, int]
) -> UInt8[torch.Tensor, "height width"]:
    """Return the label of each pixel: scores are resized to the picture's (height, width), and the highest wins."""
    large = torch.nn.functional.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
    return large.argmax(0).to(torch.uint8)


def masks_and_classes(
    labels: torch.Tensor, count: int
) -> tuple[list[Float[torch.Tensor, "present height width"]], list[torch.Tensor]]:
    """Return the truth for a model that predicts masks: for each picture, the masks of its labels, and these labels.

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
