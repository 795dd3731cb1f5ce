"""Listening behind a method of one object, without changing what it does."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from ovam.errors import UnsupportedPipelineError


class _Listening:
    """A method of one object that tells of each call behind it. A copy of the object would call the first one's."""

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
    """The error that tells of a copy within a capture."""
    return UnsupportedPipelineError(
        f"this {what} is being captured, and a copy of it would call and tell the one that it was copied from: "
        "expected a copy made before the `with` block, or behind it"
    )


@contextmanager
def wrapped(owner: Any, name: str, after: Callable[[Mapping[str, Any], Any], None]) -> Iterator[None]:
    """Call `after(arguments by name, result)` behind a method of one object, by an attribute of that object."""
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
