"""Importing an author's code from a checkout, without the packages that its numbers never pass through."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


class _Stub(ModuleType):
    """A module of which any public name can be imported."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # a package, of which modules can be imported

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing


class _Nothing:
    """A class, so that others may be derived from it and annotations name it."""


def stub(*names: str) -> None:
    """Let empty modules stand in for those of these that are not installed."""
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            module = ".".join(parts[:count])
            if isinstance(sys.modules.get(parts[0]), _Stub) or importlib.util.find_spec(parts[0]) is None:
                found = sys.modules.setdefault(module, _Stub(module))
                if count > 1:
                    setattr(sys.modules[".".join(parts[: count - 1])], parts[count - 1], found)


def on_the_way(folder: Path, expected: str) -> None:
    """Put a checkout on the way of imports.

    Raises:
        SystemExit: the folder has no such file.
    """
    if not (folder / expected).is_file():
        raise SystemExit(f"{folder} has no {expected}: expected a checkout of the authors' repository")
    sys.path.insert(0, str(folder.resolve()))
