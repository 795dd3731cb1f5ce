"""Train segmenters on labelled data sets, and label pictures with them.

`train` writes a folder that transformers loads alone; `load` and `predict` give label maps at the pictures' sizes.
"""

from ovam.train.folder import Labelled, read_labelled
from ovam.train.options import AugmentOptions, TrainOptions
from ovam.train.predict import Segmenter, load, predict
from ovam.train.segmenter import ARCHS
from ovam.train.session import train

__all__ = [
    "ARCHS",
    "AugmentOptions",
    "Labelled",
    "Segmenter",
    "TrainOptions",
    "load",
    "predict",
    "read_labelled",
    "train",
]
