"""Published methods that make masks from attention maps, on any trace: `ovam.methods.DAAM().segment(trace, ["cat"])`.

Each is a frozen object whose fields are the method's numbers, and the defaults are those that were published. Those
that `names` lists need no training. `Grounded` and `DatasetDM` need weights of their own, trained on the UNet of the
trace. `docs/methods.md` explains each method, and how to add one.
"""

from ovam.methods.attn2mask import Attn2Mask
from ovam.methods.base import Method, capture_line, checked_words, thresholds_of
from ovam.methods.daam import DAAM
from ovam.methods.dataset_diffusion import DatasetDiffusion
from ovam.methods.datasetdm import DatasetDM
from ovam.methods.grounded import Grounded
from ovam.methods.published import PublishedOVAM
from ovam.methods.registry import by_name, names, register, requires_of
from ovam.methods.result import WordScores, segmentation_of

__all__ = [
    "DAAM",
    "Attn2Mask",
    "DatasetDM",
    "DatasetDiffusion",
    "Grounded",
    "Method",
    "PublishedOVAM",
    "WordScores",
    "by_name",
    "capture_line",
    "checked_words",
    "names",
    "register",
    "requires_of",
    "segmentation_of",
    "thresholds_of",
]
