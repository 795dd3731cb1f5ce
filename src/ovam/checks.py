"""Checks of single values that people pass by mistake: text for a number, a list for one value, NaN, a truth value."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

from ovam.errors import OptionError


def number(name: str, value: object, *, least: float, below: float = math.inf) -> float:
    """Check a number against two bounds; return it as a Python float. NumPy's numbers are accepted.

    Args:
        name: Name of the option, for the error message.
        value: What was given.
        least: It must not be less.
        below: It must be less than that.

    Raises:
        OptionError: the value is not a number, or is outside these bounds.
    """
    found = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if least <= found < below:
        return found
    last = "finite" if below == math.inf else f"less than {below:g}"
    raise OptionError(f"{name}={value!r}: expected a number of at least {least:g}, and {last}")


def inner_share(name: str, value: object) -> float:
    """Check that a number is between 0 and 1, both excluded; return it as a Python float.

    Args:
        name: Name of the option, for the error message.
        value: What was given.

    Raises:
        OptionError: the value is not such a number.
    """
    found = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if 0 < found < 1:
        return found
    raise OptionError(f"{name}={value!r}: expected a number between 0 and 1, exclusive")


def whole(name: str, value: object, *, least: int) -> int:
    """Check a whole number of at least `least`; return it as a Python int. NumPy's numbers are accepted.

    Raises:
        OptionError: the value is not such a number.
    """
    found = integer(value)
    if found is None or found < least:
        raise OptionError(f"{name}={value!r}: expected a whole number of at least {least}")
    return found


def integer(value: object) -> int | None:
    """Return a whole number as a Python int, or None if the value is something else, such as True or False."""
    return None if isinstance(value, bool) or not isinstance(value, Integral) else int(value)


def listed(name: str, values: object) -> list[Any]:
    """Return the entries of a list, a tuple, a range or an array; text is not accepted.

    Raises:
        OptionError: the value is something else.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise OptionError(f"{name}={values!r}: expected a list")
    return list(values)


def size_of(name: str, size: object) -> tuple[int, int]:
    """Check a size (height, width), both at least one pixel.

    Raises:
        OptionError: the value is not such a size.
    """
    sides = [integer(side) for side in size] if isinstance(size, Sequence) and not isinstance(size, str) else []
    if len(sides) != 2 or sides[0] is None or sides[1] is None or min(sides[0], sides[1]) < 1:
        raise OptionError(f"{name}={size!r}: expected (height, width) in whole pixels, 1 at least")
    return sides[0], sides[1]


def text(name: str, value: object) -> str | None:
    """Check that a value is a text or None.

    Raises:
        OptionError: the value is something else.
    """
    if value is not None and not isinstance(value, str):
        raise OptionError(f"{name}={value!r}: expected a text")
    return value
