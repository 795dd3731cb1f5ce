"""Call a function after each call of a method of one object, without changing what the method does."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from ovam.errors import UnsupportedPipelineError


class _Listening:
    """A wrapped method that reports each call. It can't be copied: a copied object would call the original's method."""

    def __init__(self, original: Callable[..., Any], after: Callable[[Mapping[str, Any], Any], None]) -> None:
        functools.update_wrapper(self, original)
        self._original, self._after, self._signature = original, after, inspect.signature(original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._original(*args, **kwargs)
        self._after(self._signature.bind(*args, **kwargs).arguments, result)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise refused_copy(type(getattr(self._original, "__self__", self)).__name__)


def refused_copy(what: str) -> UnsupportedPipelineError:
    """Return the error for a copy that is made during a capture."""
    return UnsupportedPipelineError(
        f"this {what} is being captured, and a copy of it would call the original and report to its capture: "
        "expected a copy made before the `with` block, or after it"
    )


@contextmanager
def wrapped(owner: Any, name: str, after: Callable[[Mapping[str, Any], Any], None]) -> Iterator[None]:
    """Call `after(arguments by name, result)` after each call of a method, by setting an attribute of its object."""
    original, attributes = getattr(owner, name), vars(owner)
    had_own = name in attributes
    attributes[name] = _Listening(original, after)
    try:
        yield
    finally:
        if had_own:
            attributes[name] = original
        else:
            attributes.pop(name, None)
