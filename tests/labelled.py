"""Tiny labelled data sets and models, for tests of training."""

import json

import numpy as np
import torch
from PIL import Image

CLASSES = {1: "disc", 2: "square"}


def pair(rng, ids, size=(48, 48)):
    """A picture of noise with a red disc and a green square, and its mask; the first row is ignored."""
    height, width = size
    image = rng.normal(110, 18, (height, width, 3))
    mask = np.zeros((height, width), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for i, (shape, colour) in enumerate((("disc", (90, -30, -60)), ("square", (-60, 80, -20)))):
        radius = rng.integers(7, 12)
        y, x = rng.integers(8, height - 8), rng.integers(8, width - 8)
        far = (rows - y) ** 2 + (columns - x) ** 2 if shape == "disc" else np.maximum(abs(rows - y), abs(columns - x))
        inside = far < (radius**2 if shape == "disc" else radius)
        image[inside] = np.array(colour) + 110 + rng.normal(0, 18, (int(inside.sum()), 3))
        mask[inside] = ids[i]
    mask[0] = 255
    return Image.fromarray(image.clip(0, 255).astype(np.uint8)), Image.fromarray(mask)


def palette(mask):
    """The mask as data sets have it, with a palette."""
    mask = mask.copy()
    mask.putpalette([value for i in range(256) for value in (i, 255 - i, i * 37 % 256)])
    return mask


def dataset(folder, count, *, seed=0, classes=None, splits=("train",), size=(48, 48)):
    """Write a data set in the project's own layout."""
    named = classes or CLASSES
    rng, first, rows = np.random.default_rng(seed), next(iter(named.values())), []
    for name in ("images", "masks", "items"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        image, mask = pair(rng, list(named), size)
        image.save(folder / "images" / f"{i:06d}.png")
        palette(mask).save(folder / "masks" / f"{i:06d}.png")
        item = {
            "index": i,
            "unit": 0,
            "seed": i,
            "prompt": f"a {first}",
            "classes": [first],
            "split": splits[i % len(splits)],
            "image": {"file": f"images/{i:06d}.png", "sha256": "0" * 64},
            "mask": {"file": f"masks/{i:06d}.png", "sha256": "0" * 64},
            "areas": {first: 0.1},
            "ignored": 0.0,
            "scores": {},
            "hash": "0" * 32,
        }
        (folder / "items" / f"{i:06d}.json").write_text(json.dumps(item))
        files = {"file_name": item["image"]["file"], "mask_file_name": item["mask"]["file"]}
        rows.append(json.dumps({**files, "split": item["split"], "index": i}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows))
    about = {"format": 1, "name": "shapes", "ovam": "0", "recipe": "", "ignore": 255, "size": list(size)}
    about["model"] = {"name": "none", "hash": ""}
    about["classes"] = [{"id": i, "name": name, "words": [name], "against": []} for i, name in named.items()]
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def voc(folder, counts, *, seed=0):
    """Write a data set as Pascal VOC has it; the two shapes have the ids of a cat and a dog."""
    rng = np.random.default_rng(seed)
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for split, count in counts.items():
        names = [f"2007_{split}{i:03d}" for i in range(count)]
        (folder / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            image, mask = pair(rng, (8, 12))
            image.save(folder / "JPEGImages" / f"{name}.jpg")
            palette(mask).save(folder / "SegmentationClass" / f"{name}.png")
    return folder


def tiny_segformer(folder, labels=3):
    """Write a SegFormer of 50 000 random weights."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(
        num_labels=labels,
        hidden_sizes=[8, 16, 16, 24],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 2],
        decoder_hidden_size=24,
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    return folder


def tiny_upernet(folder, labels=3):
    """Write a UPerNet with a small ConvNeXt."""
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=stages)
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=16, num_labels=labels, auxiliary_in_channels=16, auxiliary_channels=8
    )
    UperNetForSemanticSegmentation(config).save_pretrained(folder)
    return folder


def tiny_mask2former(folder, labels=3):
    """Write a Mask2Former with a small Swin."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = SwinConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=4, out_features=stages)
    config = Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=labels,
        num_queries=6,
        hidden_dim=32,
        mask_feature_size=32,
        feature_size=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=32,
        encoder_feedforward_dim=32,
        train_num_points=256,
    )
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    return folder


ROUNDING = 4e-7
"""Of a map of the tiny models; measured: 1.8e-7 of refined ones."""


def clear(result):
    """Pixels of a segmentation whose label no rounding decides: no two scores, nor a score and the threshold, tie.

    Two ways to the same labels, such as one picture alone and the same one in a batch, round differently. A map is
    stretched to [0, 1], so the rounding of a score is that of the map divided by the map's range.
    """
    ranges = [float(each.max() - each.min()) for each in (result.maps[i] for i in range(len(result.maps)))]
    border = torch.full_like(result.scores[:1], result.threshold)
    first, second = torch.cat([result.scores, border]).topk(2, dim=0).values
    found = (first - second > ROUNDING / min(ranges)).numpy()
    assert found.mean() > 0.3
    return found
