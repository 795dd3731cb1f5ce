"""Checks of single values that people pass by mistake: text for a number, a list for one value, NaN, a truth value."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

from ovam.errors import OptionError


def number(name: str, value: object, *, least: float, below: float = math.inf) -> float:
    """A number from one bound up to another one, as a Python float; numpy's numbers are numbers.

    Args:
        name: Of the option, for the error.
        value: What was given.
        least: It must not be less.
        below: It must be less than that.

    Raises:
        OptionError: it is no number, or out of these bounds.
    """
    found = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if least <= found < below:
        return found
    last = "finite" if below == math.inf else f"less than {below:g}"
    raise OptionError(f"{name}={value!r}: expected a number of at least {least:g}, and {last}")


def whole(name: str, value: object, *, least: int) -> int:
    """A whole number of at least `least`, as a Python int; numpy's are whole numbers too.

    Raises:
        OptionError: it is none.
    """
    found = integer(value)
    if found is None or found < least:
        raise OptionError(f"{name}={value!r}: expected a whole number of at least {least}")
    return found


def integer(value: object) -> int | None:
    """A whole number as a Python int, or None where it is something else; a truth value is something else."""
    return None if isinstance(value, bool) or not isinstance(value, Integral) else int(value)


def listed(name: str, values: object) -> list[Any]:
    """The entries of a list, a tuple, a range or an array, of which text is none.

    Raises:
        OptionError: it is something else.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise OptionError(f"{name}={values!r}: expected a list")
    return list(values)


def size_of(name: str, size: object) -> tuple[int, int]:
    """A size (height, width) of one pixel at least.

    Raises:
        OptionError: it is none.
    """
    sides = [integer(side) for side in size] if isinstance(size, Sequence) and not isinstance(size, str) else []
    if len(sides) != 2 or sides[0] is None or sides[1] is None or min(sides[0], sides[1]) < 1:
        raise OptionError(f"{name}={size!r}: expected (height, width) in whole pixels, 1 at least")
    return sides[0], sides[1]


def text(name: str, value: object) -> str | None:
    """A text, or None.

    Raises:
        OptionError: it is something else.
    """
    if value is not None and not isinstance(value, str):
        raise OptionError(f"{name}={value!r}: expected a text")
    return value
