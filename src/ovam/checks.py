"""Checks of single values that people pass by mistake: text for a number, a list for one value, NaN, a truth value."""

import math
from numbers import Real

from ovam.errors import OptionError


def number(name: str, value: object, *, above: float, below: float = math.inf) -> float:
    """A number between two bounds, both exclusive, as a Python float; numpy's numbers are numbers.

    Args:
        name: Of the option, for the error.
        value: What was given.
        above: It must be greater.
        below: It must be less.

    Raises:
        OptionError: it is no number, or not between the bounds.
    """
    found = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if above < found < below:
        return found
    bounds = f"between {above:g} and {below:g}, exclusive" if below < math.inf else f"above {above:g}, and finite"
    raise OptionError(f"{name}={value!r}: expected a number {bounds}")
