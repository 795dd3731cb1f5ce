"""Import tokens that the paper's authors published as `.npy`: a plain array, or a pickled dictionary of plain arrays.

A pickle is a program. This reader runs only the instructions that numpy writes for plain arrays; a file with any other
instruction is refused before anything runs. The three names of numpy that may occur are replaced by inert classes of
this module, so a file can't even call numpy's own functions.
"""

import io
import math
import pickle
import pickletools
import tokenize
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ovam.errors import SpaceMismatchError, TokenFileError
from ovam.input_file import regular
from ovam.tokens.token_set import BACKGROUND, Fit, TokenGroup, TokenSet
from ovam.trace.phrases import Reads
from ovam.trace.text_side import Space

_MOST_BYTES = 2**22  # maximum size of a file; 20 classes of the authors take 61 KB
_MOST_INSTRUCTIONS = 5000  # maximum in a pickle, which limits its size and depth; an array takes about 20
_LONGEST_KEY = 255  # letters
_FLOATS = {"f2", "f4", "f8"}
_INSTRUCTIONS = frozenset(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 BINUNICODE SHORT_BINUNICODE SHORT_BINBYTES "
    "BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS GLOBAL "
    "STACK_GLOBAL REDUCE BUILD MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET".split()
)


def import_tokens(path: str | Path, text: Reads, *, word: str | None = None) -> TokenSet:
    """Read the authors' file as a TokenSet. The file names no encoder, so the user has to.

    An array (2, width) is a background row and a class. A vector (width,) has lost its background row; it gets the
    encoder's start token, from which that row was fitted. The maps are stretched like a word's.

    Args:
        path: An `.npy` file.
        text: Text side or reader of the model that the tokens are for, for example `trace.text`.
        word: Name of the class, if the file has one array and no names.

    Raises:
        TokenFileError: the file is of another kind, is damaged, or holds anything but plain arrays.
        SpaceMismatchError: the vectors do not have the encoder's width.
    """
    path = Path(path)
    arrays = read_arrays(path)
    named = {(word or _named_by(path)) if name is None else name: rows for name, rows in arrays.items()}
    start = text.embed("a").vectors[0].float().cpu()
    for name in named:
        if name == BACKGROUND or not name.strip():
            raise TokenFileError(
                f"{path}: a class is named {name!r}: expected a word or phrase; give the name of a file's only class "
                "with word=... or --word"
            )
    return TokenSet(tuple(_group(name, rows, start, text.space, path) for name, rows in named.items()), text.space)


def _named_by(path: Path) -> str:
    """Return the class in file names such as `cat_optimized_token.npy`."""
    return path.stem.split("_")[0] or "class"


def _group(name: str, rows: np.ndarray, start: Tensor, space: Space, path: Path) -> TokenGroup:
    if rows.ndim > 2 or rows.ndim == 0 or rows.shape[-1] != space.width:
        raise SpaceMismatchError(
            f"{path}: class {name!r} has an array of shape {rows.shape}, the text encoder is {space}: expected vectors "
            f"of width {space.width}; name the model that the tokens were made for"
        )
    vectors = torch.from_numpy(np.array(rows, dtype=np.float32)).reshape(-1, space.width)
    if len(vectors) > 2 or not bool(torch.isfinite(vectors).all()):
        raise TokenFileError(
            f"{path}: class {name!r} has {len(vectors)} vectors or numbers that are not finite: expected a background "
            "row and a class, or a class alone"
        )
    remark = "imported from the authors' file"
    if len(vectors) == 1:
        vectors, remark = (
            torch.cat([start[None], vectors]),
            f"{remark}, whose background row is lost: the start token's",
        )
    return TokenGroup((BACKGROUND, name), vectors, {}, Fit(model="", remark=remark))


def read_arrays(path: str | Path) -> dict[str | None, np.ndarray]:
    """Return the arrays of floats in an `.npy` file, by name; an array without a name has the key None.

    Raises:
        TokenFileError: the file can't be read, or holds anything but plain arrays of floats.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, more than {_MOST_BYTES}")
        data = regular(path).read_bytes()
        stream = io.BytesIO(data)
        if data[:6] != b"\x93NUMPY":
            raise ValueError("it does not begin as .npy files do")
        shape, by_columns, dtype = _header(stream)
        if not dtype.hasobject:
            return {None: _checked(_plain(stream.read(), shape, by_columns, dtype))}
        return _named(_unpickled(stream.read()))
    except (OSError, EOFError, MemoryError, OverflowError, RecursionError, pickle.UnpicklingError) as error:
        raise _refused(path, error) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _refused(path, error) from error
    except (SyntaxError, tokenize.TokenError) as error:  # numpy parses headers as Python
        raise _refused(path, error) from error


def _refused(path: Path, error: Exception) -> TokenFileError:
    return TokenFileError(
        f"{path} can't be read as tokens ({type(error).__name__}: {error}): expected an .npy file with a plain array "
        "(2, width), or a pickled dictionary of plain arrays, as the paper's authors published them; nothing in it was "
        "run"
    )


def _header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether columns come first, and type, from the header; the header is parsed, not run."""
    if np.lib.format.read_magic(stream) == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _plain(data: bytes, shape: tuple[int, ...], by_columns: bool, dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array of the bytes, after a check that they fit the shape in the header."""
    if math.prod(shape) * dtype.itemsize != len(data) or min(shape, default=0) < 0:
        raise ValueError(f"{len(data)} bytes for an array {str(shape)[:40]} of {dtype}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")


class _DType:
    """Replaces `numpy.dtype`: it only stores its arguments."""

    def __init__(self, code: str, *rest: object) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Replaces `numpy.ndarray` under construction: it only stores its state."""

    def __init__(self, *rest: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def floats(self) -> np.ndarray:
        """Return the array, after a check that it is a plain one of floats."""
        _, shape, dtype, by_columns, data = self.state
        if not isinstance(dtype, _DType) or dtype.code not in _FLOATS or not isinstance(data, bytes):
            raise ValueError("an array of something else than floats")
        form = np.dtype((">" if dtype.order == ">" else "<") + dtype.code)
        return _plain(data, tuple(map(int, shape)), bool(by_columns), form)


_NAMES = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


class _Entries(dict[str, Any]):
    """A dictionary whose keys are short texts; other keys could make a look-up take too long or go too deep."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, str) or len(key) > _LONGEST_KEY:
            raise pickle.UnpicklingError(f"it has a key that is no text of at most {_LONGEST_KEY} letters")
        super().__setitem__(key, value)


class _Restricted(pickle._Unpickler):  # in Python: the one in C reserves as much memory as a file claims
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None

    def _empty(self: Any) -> None:
        self.stack.append(_Entries())

    dispatch: ClassVar[Any] = pickle._Unpickler.dispatch | {pickle.EMPTY_DICT[0]: _empty}


def _unpickled(data: bytes) -> Any:
    """Return the content of a pickle of plain arrays.

    Raises:
        UnpicklingError: it has an instruction or a name that is not allowed, or too many instructions.
    """
    for count, (instruction, *_) in enumerate(pickletools.genops(data)):
        if instruction.name not in _INSTRUCTIONS:
            raise pickle.UnpicklingError(f"it has the instruction {instruction.name}")
        if count >= _MOST_INSTRUCTIONS:
            raise pickle.UnpicklingError(f"it has more than {_MOST_INSTRUCTIONS} instructions")
    return _Restricted(io.BytesIO(data)).load()


def _named(found: Any) -> dict[str | None, np.ndarray]:
    """Return the arrays of the dictionary, which numpy wraps as an array of one object."""
    if isinstance(found, _Array) and len(found.state) == 5 and isinstance(found.state[4], list):
        (found,) = found.state[4]
    if not isinstance(found, dict) or not found:
        raise ValueError(f"a {type(found).__name__.strip('_')} instead of a dictionary")
    named: dict[str | None, np.ndarray] = {}
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, _Array):
            raise ValueError(f"entry {name!r} of the dictionary is no array by a name")
        named[name] = _checked(value.floats())
    return named


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f" or array.size == 0:
        raise ValueError(f"an array of {array.dtype} of shape {array.shape}")
    return array
