"""Checks of single values that people pass by mistake: text for a number, a list for one value, NaN, a truth value."""

import math
from numbers import Integral, Real

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
