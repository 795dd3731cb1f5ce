"""Options of a training, each written once; the command line builds them too."""

from dataclasses import dataclass, field
from typing import Literal

from ovam.checks import number, whole
from ovam.errors import OptionError

Precision = Literal["auto", "float32", "float16", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """How pictures and their masks are varied in training.

    Attributes:
        flip: Share of the pictures that are mirrored left to right, in [0, 1].
        scale: Least and greatest enlargement, relative to the whole picture at the training size. Above 1, a part of
            the picture is cut out. Below 1, there is room around the picture, which is grey and is ignored.
        brightness: Greatest change of the brightness, in [0, 1): 0.3 is from 0.7 to 1.3 times.
        contrast: The same for the contrast.
        saturation: The same for the strength of the colours.
        blur: Share of the pictures that are blurred a little, in [0, 1].
    """

    flip: float | int = 0.5
    scale: tuple[float | int, float | int] = (0.75, 2.0)
    brightness: float | int = 0.3
    contrast: float | int = 0.3
    saturation: float | int = 0.3
    blur: float | int = 0.1

    def __post_init__(self) -> None:
        for name in ("flip", "blur"):
            if not 0 <= number(name, getattr(self, name), least=0) <= 1:
                raise OptionError(f"{name}={getattr(self, name)!r}: expected a share from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            number(name, getattr(self, name), least=0, below=1)
        low, high = self.scale
        if not 0.1 <= low <= high <= 10:
            raise OptionError(f"scale={self.scale!r}: expected two rising numbers from 0.1 to 10, such as (0.75, 2)")


PLAIN = AugmentOptions(flip=0.0, scale=(1.0, 1.0), brightness=0.0, contrast=0.0, saturation=0.0, blur=0.0)
"""No changes but one: of a picture that is not square, a square as high as its short side is cut out at random."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a segmenter is trained.

    Attributes:
        arch: `segformer-b0`, `upernet-convnext` or `mask2former`, which begin with random weights; or the folder or id
            of a model of transformers, which begins with its own weights.
        steps: Steps of the optimiser.
        batch_size: Pictures in a batch, on each device.
        accumulate: Batches that are added up for one step.
        learning_rate: The highest one, of AdamW; None for 5e-4 with random weights and 6e-5 with a model's own.
        size: Side in pixels of the squares that are trained on, and of the short side of pictures to predict. None for
            the median short side of the training pictures, as a multiple of 32 and at most 512.
        evaluate_every: Steps between two validations; each writes a checkpoint. None means a tenth of `steps`.
        seed: Seed of new weights, of the order of the pictures and of their changes.
        precision: Type for the computation; `auto` is bfloat16 on GPUs that have it, else float32.
        workers: Processes that read pictures; 0 reads them in the main one.
        augment: How pictures are varied.
    """

    arch: str = "segformer-b0"
    steps: int = 2000
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float | int | None = None
    size: int | None = None
    evaluate_every: int | None = None
    seed: int = 0
    precision: Precision = "auto"
    workers: int = 0
    augment: AugmentOptions = field(default_factory=AugmentOptions)

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("accumulate", 1), ("seed", 0), ("workers", 0)):
            whole(name, getattr(self, name), least=least)
        if self.evaluate_every is not None:
            whole("evaluate_every", self.evaluate_every, least=1)
        if self.learning_rate is not None and number("learning_rate", self.learning_rate, least=0) == 0:
            raise OptionError("learning_rate=0: expected a number above 0")
        if self.size is not None and (whole("size", self.size, least=32) % 32 or self.size > 4096):
            raise OptionError(f"size={self.size}: expected a multiple of 32 pixels, at most 4096")
        if self.precision not in PRECISIONS:
            raise OptionError(f"precision={self.precision!r}: expected one of {', '.join(PRECISIONS)}")

    @property
    def rhythm(self) -> int:
        """Steps between two validations."""
        return min(self.steps, self.evaluate_every or max(1, -(-self.steps // 10)))
