"""Options for the dense CRF."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from ovam.checks import number, whole
from ovam.defaults import CHOSEN
from ovam.errors import OptionError

Backend = Literal["lattice", "pydensecrf"]
_SIDE = 512  # of the pictures for which the paper's widths were chosen


@dataclass(frozen=True, kw_only=True)
class CrfOptions:
    """Options for the dense CRF. Values are checked when the object is made.

    The defaults were chosen on validation scenes (`ovam.defaults`). The OVAM paper's code has widths of 3, 80 and 13,
    weights of 3 and 10, and 5 iterations, on pictures of 512 pixels.

    Attributes:
        iterations: Steps of the mean field, at least 1.
        smooth_width: Standard deviation of the smoothness kernel, in pixels, at least 1.
        smooth_weight: Score in nats that a class gains where all near pixels have it; 0 leaves the kernel out.
        reach: Standard deviation of the appearance kernel in the picture's plane, in pixels, at least 1.
        colour_width: Standard deviation of the appearance kernel in each of red, green and blue (0 to 255), at least 1.
        colour_weight: Score in nats that a class gains where all near pixels of similar colour have it; 0 leaves the
            kernel out.
        scaled: Whether `smooth_width` and `reach` are given for a picture whose shorter side has 512 pixels; `segment`
            then scales them with the picture, to 1 at least.
        clip: Smaller probabilities are raised to this one, in [1e-30, 0.5). A class with a far smaller probability
            could never win, whatever the picture.
        backend: "lattice" is our own, of numpy and scipy. "pydensecrf" is the authors' C++, which the extra
            `ovam[crf]` installs; it needs a compiler.

    Raises:
        OptionError: a value is not allowed.
    """

    iterations: int = CHOSEN["crf"]["iterations"]
    smooth_width: float = CHOSEN["crf"]["smooth_width"]
    smooth_weight: float = CHOSEN["crf"]["smooth_weight"]
    reach: float = CHOSEN["crf"]["reach"]
    colour_width: float = CHOSEN["crf"]["colour_width"]
    colour_weight: float = CHOSEN["crf"]["colour_weight"]
    scaled: bool = CHOSEN["crf"]["scaled"]
    clip: float = 1e-5
    backend: Backend = "lattice"

    def __post_init__(self) -> None:
        object.__setattr__(self, "iterations", whole("iterations", self.iterations, least=1))
        for name in ("smooth_width", "reach", "colour_width"):
            object.__setattr__(self, name, number(name, getattr(self, name), least=1.0))
        for name in ("smooth_weight", "colour_weight"):
            object.__setattr__(self, name, number(name, getattr(self, name), least=0.0))
        object.__setattr__(self, "clip", number("clip", self.clip, least=1e-30, below=0.5))
        if not isinstance(self.scaled, bool):
            raise OptionError(f"scaled={self.scaled!r}: expected True or False")
        if self.backend not in get_args(Backend):
            raise OptionError(f"backend={self.backend!r}: expected one of {', '.join(map(repr, get_args(Backend)))}")

    def at(self, size: tuple[int, int]) -> "CrfOptions":
        """Return the options with widths for a picture of this (height, width), if they are to be scaled."""
        if not self.scaled:
            return self
        factor = min(size) / _SIDE
        widths = {name: max(1.0, factor * getattr(self, name)) for name in ("smooth_width", "reach")}
        return replace(self, scaled=False, **widths)


CrfChoice = bool | CrfOptions
"""Whether to run the CRF: False, True for the default options, or options."""


def crf_choice(value: CrfChoice) -> CrfOptions | None:
    """Return the options, or None for no CRF.

    Raises:
        OptionError: `value` is neither a boolean nor `CrfOptions`.
    """
    if isinstance(value, CrfOptions):
        return value
    if isinstance(value, bool):
        return CrfOptions() if value else None
    raise OptionError(f"crf={value!r}: expected True, False or ovam.CrfOptions(...)")
