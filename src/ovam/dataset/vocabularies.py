"""Classes of known data sets, with their numbers and the words that prompts use for them."""

from collections.abc import Mapping

from ovam.voc_names import VOC

_SYNONYMS = {
    "aeroplane": ("aeroplane", "plane"),
    "bicycle": ("bicycle", "bike"),
    "dining table": ("dining table", "table"),
    "motorbike": ("motorbike", "motorcycle"),
    "potted plant": ("potted plant", "plant"),
    "sofa": ("sofa", "couch"),
    "tv monitor": ("tv monitor", "television"),
}
_COCO_GROUPS = (
    "1 person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant",
    "13 stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe",
    "27 backpack,umbrella",
    "31 handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,"
    "tennis racket,bottle",
    "46 wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,"
    "chair,couch,potted plant,bed",
    "67 dining table",
    "70 toilet",
    "72 tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator",
    "84 book,clock,vase,scissors,teddy bear,hair drier,toothbrush",
)
"""COCO's classes in runs of successive numbers, each with its first one; numbers between the runs have no class."""


def _coco() -> dict[int, str]:
    runs = [(int(first), names.split(",")) for first, _, names in (run.partition(" ") for run in _COCO_GROUPS)]
    return {first + i: name for first, names in runs for i, name in enumerate(names)}


VOCABULARIES: Mapping[str, Mapping[int, str]] = {"voc": VOC, "coco": _coco()}
"""Names of the classes by their numbers: Pascal VOC's 20, and COCO's 80 with its gaps."""


def words_for(name: str) -> tuple[str, ...]:
    """Return the words for a class of a known data set; its own name comes first."""
    return _SYNONYMS.get(name, (name,))
