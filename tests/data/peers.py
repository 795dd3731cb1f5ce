"""What the scripts here share: how another tool is imported, the runs it is shown, and the file its numbers go to.

Each `make_*.py` runs another tool's own code on a small pipeline of `tests/steady.py` and keeps a few of its numbers.
They are run by hand, once, in an environment with torch, diffusers, transformers and numpy; none of them imports this
project's package. Their commands are in `README.md` here.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import diffusers
import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

PROMPT = "A dog's red hat, a dog and a hot frog on the grass."
"""With a word twice, one of several tokens, one that begins another, and punctuation within and at the end."""

STEPS = 2


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class _Stub(ModuleType):
    """A module of which any public name can be imported."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing


class _Nothing:
    """A class, so that others may be derived from it and annotations name it."""


def stub(*names: str) -> None:
    """Stand-ins for what a tool imports on the way and its numbers never pass through."""
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            part = ".".join(parts[:count])
            if isinstance(sys.modules.get(parts[0]), _Stub) or importlib.util.find_spec(parts[0]) is None:
                module = sys.modules.setdefault(part, _Stub(part))
                if count > 1:
                    setattr(sys.modules[".".join(parts[: count - 1])], parts[count - 1], module)


def bare_package(name: str, folder: Path) -> None:
    """A package whose own `__init__` is not run, so that one module of it can be imported without the others."""
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def checkout(description: str) -> Path:
    """The folder of the tool's sources, as given on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkout", type=Path, help="folder of the tool's repository or of its installed package")
    folder: Path = parser.parse_args().checkout.resolve()
    sys.path.insert(0, str(folder))
    return folder


def keep(name: str, tool: str, arrays: Mapping[str, Tensor]) -> None:
    """Write the numbers, with what they were made by."""
    made = {"tool": tool, "torch": torch.__version__, "diffusers": diffusers.__version__}
    contiguous = {key: array.detach().cpu().contiguous() for key, array in arrays.items()}
    save_file(contiguous, HERE / f"{name}.safetensors", {"made": json.dumps(made, sort_keys=True)})
    total = sum(array.nbytes for array in contiguous.values())
    print(f"{name}: {len(arrays)} arrays, {total} bytes")
