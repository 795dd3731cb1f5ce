"""The oracles: two segmentation networks of different architecture that label what mini generates.

They are trained on rendered scenes, whose labels are exact, and on imitations of generated pictures. Where the
two differ nobody knows the truth, and the pixel is ignored, for every method alike.
"""

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ovam.errors import ModelNotFoundError
from ovam.mini.scenes import CLASSES, LABELS

IGNORE = 255
LABEL_COUNT = len(LABELS) + 1
NAMES = ("a", "b")
_BATCH = 16


class _Stage(nn.Module):
    """Two convolutions with a residual."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU())
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.second(x)


class ConvolutionalOracle(nn.Module):
    """Oracle A: an encoder and a decoder of convolutions with added skips (after Ronneberger et al., MICCAI 2015).

    It looks at half the picture's size, and writes out the four pixels of each place.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 112, 160)) -> None:
        super().__init__()
        self.stem = _Stage(12, widths[0])
        self.down = nn.ModuleList(nn.Sequential(_Stage(a, b), _Stage(b, b)) for a, b in itertools.pairwise(widths))
        upward = list(reversed(list(itertools.pairwise(widths))))
        self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in upward)  # before the larger size, where it is cheap
        self.up = nn.ModuleList(_Stage(a, a) for a, _ in upward)
        self.head = nn.Conv2d(widths[0], 4 * LABEL_COUNT, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores (picture, label, height, width) of pictures in [-1, 1]."""
        kept = [self.stem(F.pixel_unshuffle(pictures, 2))]
        for stage in self.down:
            kept.append(stage(F.avg_pool2d(kept[-1], 2)))
        x = kept.pop()
        for narrow, stage in zip(self.narrow, self.up, strict=True):
            skip = kept.pop()
            x = stage(skip + F.interpolate(narrow(x), size=skip.shape[-2:]))
        return F.pixel_shuffle(self.head(x), 2)


class TransformerOracle(nn.Module):
    """Oracle B: a small SegFormer (Xie et al., NeurIPS 2021)."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        config = SegformerConfig(
            depths=[1, 1, 2, 1],
            hidden_sizes=[24, 48, 96, 128],
            num_attention_heads=[1, 2, 4, 4],
            decoder_hidden_size=96,
            patch_sizes=[5, 3, 3, 3],
            strides=[2, 2, 2, 2],  # scores at half size: at a quarter, SegFormer's own, small things lose their outline
            num_labels=LABEL_COUNT,
            mlp_ratios=[2, 2, 2, 2],
            drop_path_rate=0.0,
            classifier_dropout_prob=0.0,
        )
        self.network = SegformerForSemanticSegmentation(config)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores (picture, label, height, width) of pictures in [-1, 1]."""
        scores = self.network(pictures).logits
        return F.interpolate(scores, size=pictures.shape[-2:], mode="bilinear")


def build_oracle(name: str) -> nn.Module:
    """An untrained oracle, "a" or "b"."""
    return {"a": ConvolutionalOracle, "b": TransformerOracle}[name]()


def oracle_folder() -> Path:
    """Where the shipped oracles lie."""
    return Path(__file__).parent / "oracles"


def has_oracles(folder: Path | None = None) -> bool:
    """Whether the trained oracles are there."""
    return all(((folder or oracle_folder()) / f"{name}.safetensors").is_file() for name in NAMES)


@cache
def load_oracles(folder: Path | None = None) -> dict[str, nn.Module]:
    """The trained oracles by name, in float32.

    Raises:
        ModelNotFoundError: they are not there.
    """
    folder = folder or oracle_folder()
    oracles = {}
    for name in NAMES:
        file = folder / f"{name}.safetensors"
        if not file.is_file():
            raise ModelNotFoundError(f"oracle {name!r} is not in {folder}: make it with `python -m lab.mini oracles`")
        oracle = build_oracle(name)
        oracle.load_state_dict({key: value.float() for key, value in load_file(file).items()})
        oracles[name] = oracle.eval()
    return oracles


@torch.no_grad()
def label_maps(oracle: nn.Module, images: np.ndarray) -> np.ndarray:
    """What one oracle sees in pictures and their mirror images together: (picture, height, width) uint8 of `LABELS`.

    The mean of both shares is worth 0.01 of its mean IoU (100 validation scenes after the autoencoder).

    Args:
        oracle: One of `load_oracles`.
        images: (picture, height, width, 3) uint8.
    """
    parts = []
    for start in range(0, len(images), _BATCH):
        pictures = as_input(images[start : start + _BATCH])
        shares = oracle(pictures).softmax(1) + oracle(pictures.flip(-1)).softmax(1).flip(-1)
        parts.append(shares.argmax(1).byte())
    return torch.cat(parts).numpy()


def as_input(images: np.ndarray) -> Tensor:
    """Pictures (picture, height, width, 3) uint8 as an oracle takes them: (picture, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def classes_alone(labels: np.ndarray) -> np.ndarray:
    """Labels with grounds and whatever has no name as one background, 0, as in Pascal VOC; same shape."""
    return np.where(labels <= len(CLASSES), labels, np.uint8(0))


def agreed_labels(images: np.ndarray, folder: Path | None = None) -> np.ndarray:
    """Classes on which both oracles agree, 0 for the background, `IGNORE` elsewhere: (picture, height, width) uint8.

    Which ground it is they need not agree on: what both call background counts against a method that calls it a thing.
    """
    first, second = (classes_alone(label_maps(oracle, images)) for oracle in load_oracles(folder).values())
    return np.where(first == second, first, np.uint8(IGNORE))
