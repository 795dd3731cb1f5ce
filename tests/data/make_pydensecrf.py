"""Class probabilities after a dense CRF, by the authors' C++ through the package pydensecrf2.

pip install --target FOLDER --no-deps pydensecrf2==1.1
python tests/data/make_pydensecrf.py FOLDER
"""

import numpy as np
import torch
from peers import checkout, keep
from scipy.ndimage import gaussian_filter

checkout(__doc__)

from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_softmax

CASES = {  # classes, height, width, and the settings that are not the paper's
    "two": (2, 40, 48, {}),
    "three": (3, 36, 29, {"smooth_width": 1.0, "reach": 12.0, "colour_width": 4.0, "colour_weight": 3.0}),
    "weak": (
        2,
        33,
        31,
        {"iterations": 10, "smooth_weight": 0.0, "colour_width": 8.0, "colour_weight": 2.0, "clip": 1e-3},
    ),
}
PAPER = {
    "iterations": 5, "smooth_width": 3.0, "smooth_weight": 3.0,
    "reach": 80.0, "colour_width": 13.0, "colour_weight": 10.0, "clip": 1e-5,
}  # fmt: skip


def scene(random, classes, height, width):
    """A picture of coloured blobs, and soft probabilities that know them roughly."""
    fields = gaussian_filter(random.normal(size=(classes, height, width)), (0, 6, 6))
    truth = fields.argmax(0)
    colours = random.integers(30, 220, (classes, 3))
    picture = (colours[truth] + random.normal(0, 6, (height, width, 3))).clip(0, 255).astype(np.uint8)
    soft = gaussian_filter((truth == np.arange(classes)[:, None, None]).astype(np.float64), (0, 4, 4))
    soft = soft * random.uniform(0.5, 1.5, soft.shape)
    return picture, (soft / soft.sum(0)).astype(np.float32)


arrays = {}
for number, (name, (classes, height, width, changed)) in enumerate(CASES.items()):
    options = PAPER | changed
    picture, probabilities = scene(np.random.default_rng(10 + number), classes, height, width)
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(unary_from_softmax(probabilities, clip=options["clip"]))
    if options["smooth_weight"]:
        crf.addPairwiseGaussian(sxy=options["smooth_width"], compat=options["smooth_weight"])
    crf.addPairwiseBilateral(
        sxy=options["reach"], srgb=options["colour_width"], rgbim=picture, compat=options["colour_weight"]
    )
    found = np.array(crf.inference(options["iterations"]), np.float32).reshape(probabilities.shape)
    arrays[f"{name}.picture"] = torch.from_numpy(picture)
    arrays[f"{name}.given"] = torch.from_numpy(probabilities)
    arrays[f"{name}.found"] = torch.from_numpy(found)
    for key, value in changed.items():
        arrays[f"{name}.options.{key}"] = torch.tensor(value, dtype=torch.float64)

    unsure = ((found > 0.02) & (found < 0.98)).any(0).mean()
    print(f"{name}: winners {np.bincount(found.argmax(0).ravel())}, {unsure:.0%} unsure")

keep("pydensecrf", "pydensecrf2 1.1", arrays)
