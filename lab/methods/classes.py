"""Which classes training sees."""

from collections.abc import Sequence

from ovam.errors import OptionError
from ovam.mini.scenes import CLASSES

UNSEEN: dict[int, tuple[str, ...]] = {
    1: ("tv monitor", "car", "dog", "sofa", "train"),
    2: ("horse", "motorbike", "person", "potted plant", "sheep"),
    3: ("bus", "cat", "chair", "cow", "dining table"),
}
"""The five classes that training does not see, in the three splits of Grounded Diffusion's authors."""


def seen_without(unseen: Sequence[str]) -> tuple[str, ...]:
    """Return the classes that training sees.

    Raises:
        OptionError: an unseen class is none of the world's, or none would be seen.
    """
    strange = [name for name in unseen if name not in CLASSES]
    if strange or not set(CLASSES) - set(unseen):
        given = strange[0] if strange else list(unseen)
        raise OptionError(f"unseen={given!r}: expected some of {', '.join(CLASSES)}, but not all of them")
    return tuple(name for name in CLASSES if name not in unseen)
