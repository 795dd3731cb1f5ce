"""Let public functions take the fields of an options dataclass as keywords.

To add an option, add a field to the dataclass and use it. Signatures and `help` follow from the dataclass.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar, overload, runtime_checkable

P = ParamSpec("P")
First = TypeVar("First")
Second = TypeVar("Second")
Third = TypeVar("Third")
Options = TypeVar("Options")
Options_co = TypeVar("Options_co", covariant=True)
Result = TypeVar("Result")


@runtime_checkable
class _Decorator(Protocol[Options_co, P]):
    """Decorates a function of one, two or three arguments and an options object."""

    @overload
    def __call__(
        self, function: Callable[[First, Options_co], Result], /
    ) -> Callable[Concatenate[First, P], Result]: ...

    @overload
    def __call__(
        self, function: Callable[[First, Second, Options_co], Result], /
    ) -> Callable[Concatenate[First, Second, P], Result]: ...

    @overload
    def __call__(
        self, function: Callable[[First, Second, Third, Options_co], Result], /
    ) -> Callable[Concatenate[First, Second, Third, P], Result]: ...


def options_as_keywords(options: Callable[P, Options], *, name: str | None = None) -> _Decorator[Options, P]:
    """Decorate a function of one to three arguments and an options object: it then takes the options as keywords.

    Args:
        options: Class of the options object.
        name: Name of the function that takes keywords; None keeps the name of the decorated function.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Cut:
        ...     at: float = 0.5
        >>> @options_as_keywords(Cut)
        ... def above(value: float, options: Cut) -> bool:
        ...     return value > options.at
        >>> above(0.4), above(0.4, at=0.3)
        (False, True)
    """

    def decorate(function: Callable[..., Result], /) -> Callable[..., Result]:
        return _taking(function, options, name)

    return decorate


def _taking(function: Callable[..., Result], options: Callable[..., object], name: str | None) -> Callable[..., Result]:
    *plain, _ = inspect.signature(function).parameters.values()
    fields = inspect.signature(options).parameters

    @functools.wraps(function)
    def taking(*given: object, **named: object) -> Result:
        unknown = [key for key in named if key not in fields and key not in own]
        if unknown:
            raise TypeError(
                f"{taking.__qualname__}() got an unexpected keyword argument {unknown[0]!r}: expected some of "
                f"{', '.join(fields)}"
            )
        if len(given) > len(plain):
            raise TypeError(
                f"{taking.__qualname__}() got {len(given)} arguments without a name: expected {len(plain)}, and "
                f"options by name ({', '.join(fields)})"
            )
        chosen = options(**{key: value for key, value in named.items() if key in fields})
        return function(*given, options=chosen, **{key: value for key, value in named.items() if key in own})

    if name is not None:
        taking.__name__ = taking.__qualname__ = name
    own = {parameter.name for parameter in plain}
    taking.__signature__ = inspect.Signature([*plain, *fields.values()])  # type: ignore[attr-defined]
    taking.__doc__ = f"{function.__doc__ or ''}\n\n    Keywords:\n{_attributes_of(options)}"
    return taking


def _attributes_of(options: Callable[..., object]) -> str:
    """Return what the docstring of the options class, and of its bases, says about each option."""
    kinds = [kind for kind in inspect.getmro(options) if kind is not object] if inspect.isclass(options) else []
    pages = [inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2] for kind in kinds]
    return "\n".join(f"    {line}" for page in pages for line in page.partition("\n\n")[0].splitlines())
