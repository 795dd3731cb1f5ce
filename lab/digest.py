"""Short names for what a number depends on, so that none is taken for another's."""

import ast
import functools
import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """12 hexadecimal digits of what JSON makes of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def syntax_of(*packages: str) -> str:
    """Digest of whole packages as Python reads them: comments, docstrings and layout change nothing, code does.

    Args:
        packages: Names, such as "ovam" or "lab.fits"; each with all packages below it.

    Raises:
        ModuleNotFoundError: there is no such package, or it is a single file.
    """
    return digest([[package, _trees(_folder(package))] for package in packages])


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is no package: expected one that figures depend on")
    return Path(spec.submodule_search_locations[0])


def _trees(folder: Path) -> list[list[str]]:
    """Name and syntax tree of each file."""
    return [[file.relative_to(folder).as_posix(), _tree(file.read_text())] for file in sorted(folder.rglob("*.py"))]


def _tree(source: str) -> str:
    """The syntax tree without strings that stand alone, as docstrings do."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(line: ast.AST) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
