"""Listening behind a method of one object, without changing what it does."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def wrapped(owner: Any, name: str, after: Callable[[Mapping[str, Any], Any], None]) -> Iterator[None]:
    """Call `after(arguments by name, result)` behind a method of one object, by an attribute of that object."""
    original, attributes = getattr(owner, name), vars(owner)
    signature = inspect.signature(original)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        after(signature.bind(*args, **kwargs).arguments, result)
        return result

    had_own = name in attributes
    attributes[name] = wrapper
    try:
        yield
    finally:
        if had_own:
            attributes[name] = original
        else:
            del attributes[name]
