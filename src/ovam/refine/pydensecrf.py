"""The dense CRF's authors' own C++, where it is installed."""

import numpy as np
from jaxtyping import Float32, UInt8

from ovam.errors import MissingPackageError
from ovam.refine.crf_options import CrfOptions


def authors_mean_field(
    energies: Float32[np.ndarray, "class pixel"], image: UInt8[np.ndarray, "height width 3"], options: CrfOptions
) -> Float32[np.ndarray, "class pixel"]:
    """Run the mean field; `energies` are minus the logarithms of the input probabilities, the result probabilities.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise MissingPackageError(
            "backend='pydensecrf': the package pydensecrf2 can't be loaded: install it with pip install 'ovam[crf]', "
            "which needs a C++ compiler, or use backend='lattice', which gives the same"
        ) from error
    height, width, _ = image.shape
    crf = DenseCRF2D(width, height, len(energies))
    crf.setUnaryEnergy(np.ascontiguousarray(energies))
    if options.smooth_weight:
        crf.addPairwiseGaussian(sxy=options.smooth_width, compat=options.smooth_weight)
    if options.colour_weight:
        crf.addPairwiseBilateral(
            sxy=options.reach, srgb=options.colour_width, rgbim=image, compat=options.colour_weight
        )
    return np.array(crf.inference(options.iterations), np.float32)
