"""The world's words: classes, their synonyms and kinds, colours, parts, grounds, and words it never shows."""

from ovam.errors import OptionError

CLASS_WORDS: dict[str, tuple[str, ...]] = {
    "aeroplane": ("aeroplane", "plane", "airplane"),
    "bicycle": ("bicycle", "bike"),
    "bird": ("bird",),
    "boat": ("boat", "ship"),
    "bottle": ("bottle", "flask"),
    "bus": ("bus", "coach"),
    "car": ("car", "automobile"),
    "cat": ("cat", "kitten"),
    "chair": ("chair", "seat"),
    "cow": ("cow", "cattle"),
    "dining table": ("dining table", "table"),
    "dog": ("dog", "puppy"),
    "horse": ("horse", "pony"),
    "motorbike": ("motorbike", "motorcycle"),
    "person": ("person", "human"),
    "potted plant": ("potted plant", "plant"),
    "sheep": ("sheep", "lamb"),
    "sofa": ("sofa", "couch"),
    "train": ("train", "locomotive"),
    "tv monitor": ("tv monitor", "television"),
}
"""Classes of Pascal VOC in its order, each with its own name first and its synonyms behind."""

CLASSES = tuple(CLASS_WORDS)

KINDS: dict[str, tuple[str, ...]] = {
    "animal": ("bird", "cat", "cow", "dog", "horse", "sheep"),
    "vehicle": ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
    "furniture": ("chair", "dining table", "sofa"),
}
"""Hypernyms and what they cover."""

KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}

GROUND_WORDS: dict[str, tuple[str, ...]] = {
    "grass": ("grass", "lawn"),
    "sand": ("sand", "beach"),
    "water": ("water", "sea"),
    "snow": ("snow",),
    "road": ("road", "street"),
    "floor": ("floor",),
    "sky": ("sky",),
    "wall": ("wall",),
    "rails": ("rails", "track"),
}
GROUNDS = tuple(GROUND_WORDS)

LABELS: dict[str, int] = {name: i for i, name in enumerate((*CLASSES, *GROUNDS), start=1)}
"""Label of each class (1 to 20, VOC's own) and ground (21 and up); 0 is whatever has no name."""


def label_of(name: str) -> int:
    """Label of a class or ground.

    Raises:
        OptionError: there is none of that name.
    """
    if name not in LABELS:
        raise OptionError(f"class {name!r} is unknown: expected one of {', '.join(LABELS)}")
    return LABELS[name]


PARTS: dict[str, int] = {
    name: i
    for i, name in enumerate(("head", "body", "legs", "tail", "horns", "wheel", "window", "hat", "pot"), start=1)
}
"""Number of each part in a part map; 0 is no part."""

UNKNOWN_PART = 255
"""In a part map: belongs to a thing whose parts nobody marked, such as an emoji that is more than a head."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 45, 45),
    "blue": (50, 95, 200),
    "green": (60, 150, 70),
    "yellow": (235, 200, 60),
    "white": (238, 238, 235),
    "black": (48, 48, 52),
    "brown": (135, 88, 52),
    "grey": (140, 142, 148),
    "orange": (235, 135, 45),
    "pink": (235, 150, 170),
}
"""Colour words and what they look like; a thing's own colour varies a little around it."""

DISTRACTORS: dict[str, str] = {
    "apple": "🍎",
    "ball": "⚽",
    "gift": "🎁",
    "umbrella": "☂️",
    "balloon": "🎈",
    "box": "📦",
    "key": "🔑",
    "mushroom": "🍄",
    "brick": "🧱",
    "melon": "🍉",
    "star": "⭐",
    "drum": "🥁",
    "bucket": "🪣",
    "teddy": "🧸",
    "clock": "⏰",
    "crown": "👑",
    "guitar": "🎸",
    "pumpkin": "🎃",
    "cactus": "🌵",
    "lamp": "💡",
}
"""Things that belong to no class. The text tower learns their names; no caption of the denoiser has them."""

TOWER_WORDS = tuple(DISTRACTORS)
"""Known to the text tower, never used with the denoiser."""

ABSENT_WORDS = ("giraffe", "volcano", "castle", "pizza", "rocket", "violin", "dinosaur", "helicopter", "spoon", "river")
"""Ordinary words of no caption."""

NONSENSE = ("florp", "wubble", "zindle", "quorv", "blicket", "daxen", "mimsy", "plontar")
"""Words of no language."""
