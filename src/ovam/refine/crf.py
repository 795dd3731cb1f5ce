"""Let class probabilities follow the picture's edges: the mean field of a CRF in which all pixels are neighbours."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from ovam.errors import ImageInputError, NotFiniteError, ProbabilityError
from ovam.refine.crf_options import CrfOptions
from ovam.refine.lattice import lattice
from ovam.refine.pydensecrf import authors_mean_field

Probabilities = Float32[Tensor, "class height width"]
Picture = UInt8[np.ndarray, "height width 3"]
Rows = Float32[np.ndarray, "class pixel"]
Points = Float32[np.ndarray, "dimension pixel"]
Some = Float32[np.ndarray, "some pixel"]

Blur = Callable[[Some], Some]
"""Sums up values around each pixel, weighed by a gaussian, up to a common factor."""

_TOLERANCE = 1e-3  # of sums of probabilities
_KEPT_PIXELS = 2**20  # of larger pictures the kernel of places is not kept: it takes 33 bytes a pixel


def dense_crf(probabilities: Probabilities, image: Picture, options: CrfOptions) -> Probabilities:
    """Return class probabilities that follow the picture's edges: all pixels influence each other, near and alike most.

    The score of a class at a pixel starts as the logarithm of its probability. It grows with the share of the class
    among the pixels within `smooth_width`, and among those of similar colour within `reach`. The function is not
    differentiable. The result is on the device of `probabilities`, the work is done on the CPU.

    Args:
        probabilities: Probabilities of at least two classes, background included; they sum to 1 at each pixel.
        image: The picture, at the size of `probabilities`.
        options: See `CrfOptions`.

    Returns:
        Probabilities in [0, 1], which sum to 1 at each pixel.

    Raises:
        ProbabilityError: there are fewer than two classes, a pixel's probabilities are negative or do not sum to 1, or
            their size is not the picture's.
        NotFiniteError: a probability is NaN or infinite.
        ImageInputError: the picture is not of uint8, or not (height, width, 3).
        OptionError: the picture is too large for widths as small as those of `options`.
        MissingPackageError: `pydensecrf` was asked for and is not installed.

    Source:
        Kraehenbuehl and Koltun 2011, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials,
        algorithm 1 with Potts compatibility; as in the authors' released code, kernels are normalised by the square
        roots of both pixels' sums, and a pixel is its own neighbour too.
    """
    _check(probabilities, image)
    given = probabilities.detach().float().cpu().numpy()
    energies = -np.log(given.clip(options.clip, 1.0)).reshape(len(given), -1)
    if options.backend == "pydensecrf":
        found = authors_mean_field(energies, np.array(image, order="C"), options)  # it refuses a read-only one
    else:
        found = mean_field(energies, kernels_of(image, options), options.iterations)
    return torch.from_numpy(found.reshape(given.shape)).to(probabilities.device)


def _check(probabilities: Tensor, image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageInputError(
            f"image is a {image.dtype} array of shape {image.shape}: expected uint8 of (height, width, 3)"
        )
    if probabilities.ndim != 3 or len(probabilities) < 2:
        raise ProbabilityError(
            f"probabilities are of shape {tuple(probabilities.shape)}: expected (class, height, width) with at least "
            "two classes; the background counts as a class, as in torch.stack([1 - p, p])"
        )
    if probabilities.shape[1:] != image.shape[:2] or not image.size:
        raise ProbabilityError(
            f"probabilities are of {tuple(probabilities.shape[1:])} pixels, the picture is of {image.shape[:2]}: "
            "expected the same (height, width), and at least one pixel; resize the probabilities"
        )
    if not bool(torch.isfinite(probabilities).all()):
        raise NotFiniteError("probabilities contain NaN or infinity")
    off = float((probabilities.sum(0) - 1).abs().max())
    if off > _TOLERANCE or float(probabilities.min()) < 0:
        raise ProbabilityError(
            f"the lowest probability is {float(probabilities.min()):.3g}, and a pixel's sum differs from 1 by up to "
            f"{off:.3g}: expected none below 0, and sums of 1; divide by the sum, or take a softmax over the classes"
        )


@dataclass(frozen=True, eq=False)
class Kernel:
    """A normalised gaussian between all pixels, with its weight in the scores."""

    blur: Blur
    factor: Float32[np.ndarray, " pixel"]
    weight: float

    @classmethod
    def around(cls, blur: Blur, pixels: int, weight: float) -> "Kernel":
        """Normalise a blur by the square roots of both pixels' sums."""
        sums = blur(np.ones((1, pixels), np.float32))[0]
        return cls(blur, 1 / np.sqrt(sums), weight)

    def support(self, shares: Some) -> Some:
        """How much of each class is around each pixel, times the weight."""
        spread = self.blur(shares * self.factor)
        spread *= self.factor * np.float32(self.weight)
        return spread


def mean_field(energies: Rows, kernels: Sequence[Kernel], iterations: int) -> Rows:
    """Run the mean field; `energies` are minus the logarithms of the input probabilities, the result probabilities."""
    everything = _support(kernels, np.ones((1, energies.shape[1]), np.float32))[0]
    shares = _softmax(-energies)
    for _ in range(iterations):
        support = _support(kernels, shares[:-1])  # the last class: all support minus that of the others
        scores = -energies
        scores[:-1] += support
        scores[-1] += everything - support.sum(0)
        shares = _softmax(scores)
    return shares


def _support(kernels: Sequence[Kernel], shares: Some) -> Some:
    return sum((kernel.support(shares) for kernel in kernels), np.zeros_like(shares))


def kernels_of(image: Picture, options: CrfOptions) -> list[Kernel]:
    """Return the kernel of places and that of places and colours, as far as they have a weight."""
    kernels, (height, width, _) = list[Kernel](), image.shape
    if options.smooth_weight:
        made = _smooth_kernel if height * width <= _KEPT_PIXELS else _smooth_kernel.__wrapped__
        kernels.append(replace(made(height, width, options.smooth_width), weight=options.smooth_weight))
    if options.colour_weight:
        kernels.append(_kernel(colour_points(image, options), options.colour_weight))
    return kernels


@functools.lru_cache(maxsize=1)
def _smooth_kernel(height: int, width: int, smooth_width: float) -> Kernel:
    """Return the kernel of places, with weight 1; pictures of one size that come one after another share it."""
    return _kernel(smooth_points(height, width, smooth_width), 1.0)


def _kernel(points: Points, weight: float) -> Kernel:
    return Kernel.around(lattice(points).blur, points.shape[1], weight)


def smooth_points(height: int, width: int, smooth_width: float) -> Points:
    """Return the places (x, y) of all pixels, in widths of their gaussian."""
    return _places(height, width) / np.float32(smooth_width)


def colour_points(image: Picture, options: CrfOptions) -> Points:
    """Return places (x, y) and colours of all pixels, each in widths of its gaussian."""
    places, colours = _places(*image.shape[:2]), image.reshape(-1, 3).T.astype(np.float32)
    return np.concatenate([places / np.float32(options.reach), colours / np.float32(options.colour_width)])


def _places(height: int, width: int) -> Points:
    return np.indices((height, width), np.float32).reshape(2, -1)[::-1]


def _softmax(scores: Rows) -> Rows:
    powers = np.exp(scores - scores.max(0))
    powers /= powers.sum(0)
    return powers
