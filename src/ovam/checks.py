"""Checks of single values that people pass by mistake: text for a number, a list for one value, NaN, a truth value."""

import math
from numbers import Real

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
