"""Choose attention blocks of a model by name, by grid, or by the size of their grid relative to the finest grid."""

import math
import re
from collections.abc import Iterable, Mapping

from ovam.checks import integer
from ovam.errors import MissingBlockError, OptionError
from ovam.shapes import Grid

BlockChoice = str | int | Iterable[str | int | Grid] | None
"""Chooses blocks. It is one of these, or a list of these:

* a module path or its beginning ("up_blocks.1");
* a grid height (16);
* a size relative to the finest grid ("1/4");
* "all", which means all blocks except those in a UNet's coarse "mid_block";
* in a list also a grid, (height, width).

None leaves the choice to the function: maps then use every kept block, and a capture keeps the model's default blocks.
"""

ALL = "all"
"""The choice of all blocks except those in a UNet's coarse "mid_block"."""

_SHARE = re.compile(r"1/(\d{1,4})")


def choose_blocks(grids: Mapping[str, Grid], choice: BlockChoice) -> tuple[str, ...]:
    """Return the names of the chosen blocks, in the order of `grids`.

    Raises:
        MissingBlockError: an entry fits no block, or the list is empty.
        OptionError: `choice` is a tuple of two numbers that could be one grid or two grid heights.
    """
    if choice is None:
        return tuple(grids)
    entries, finest = _entries_of(grids, choice), finest_of(grids.values())
    fitting = [{name for name, grid in grids.items() if _fits(entry, name, grid, finest)} for entry in entries]
    if not all(fitting) or not entries:
        missing = [entry for entry, names in zip(entries, fitting, strict=True) if not names]
        sizes = ", ".join(f"{h}x{w}" for h, w in sorted(set(grids.values()), reverse=True))
        names = ", ".join(list(grids)[:5])
        raise MissingBlockError(
            f"block {missing[0] if missing else entries!r} fits none of the {len(grids)} blocks here: expected one of "
            f"the grids {sizes} (in Python, for example, {finest} or only the height, {finest[0]}), a size relative "
            f"to the finest grid ('1/4'), 'all', a module path ({names}, ...), or the beginning of one"
        )
    chosen = set().union(*fitting)
    return tuple(name for name in grids if name in chosen)


def checked_blocks(choice: BlockChoice) -> BlockChoice:
    """Check a choice of blocks. Return the choice with `int` in place of NumPy integers, and with a list in place of an
    iterator.

    Raises:
        OptionError: an entry is neither a name, a number nor a grid.
    """
    if choice is None or isinstance(choice, str):
        return choice
    if isinstance(choice, Iterable):
        entries = [_checked(entry) for entry in choice]
        return tuple(entries) if isinstance(choice, tuple) else entries
    return _checked(choice)


def _checked(entry: object) -> str | int | Grid:
    if isinstance(entry, str):
        return entry
    number = integer(entry)
    if number is not None:
        return number
    sides = [integer(side) for side in entry] if isinstance(entry, tuple) else []
    if len(sides) == 2 and sides[0] is not None and sides[1] is not None:
        return (sides[0], sides[1])
    raise OptionError(
        f"the option `blocks` contains {entry!r}: expected module paths or their beginnings ('up_blocks.1'), grid "
        "heights (16), grids ((16, 24)), or 'all'"
    )


def _entries_of(grids: Mapping[str, Grid], choice: str | int | Iterable[str | int | Grid]) -> list[str | int | Grid]:
    """Return the entries of a choice.

    A tuple of two numbers is one grid if the model has this grid; otherwise the numbers are two grid heights.

    Raises:
        OptionError: the model has the grid and both grid heights, and the grid names other blocks than the heights.
    """
    if isinstance(choice, str | int):
        return [choice]
    entries = list(choice)
    if not isinstance(choice, tuple) or len(entries) != 2 or not all(isinstance(entry, int) for entry in entries):
        return entries
    as_grid = {name for name, grid in grids.items() if grid == choice}
    as_heights = {name for name, grid in grids.items() if grid[0] in entries}
    if not as_grid:
        return entries
    if as_grid != as_heights and {grid[0] for grid in grids.values()}.issuperset(entries):
        raise OptionError(
            f"blocks {choice} can be one grid or two grid heights here, which name different blocks: write [{choice}] "
            f"for the grid, or {entries} for the heights"
        )
    return [choice]


def finest_of(grids: Iterable[Grid]) -> Grid:
    """Return the grid that has the most pixels, or (0, 0) if there are no grids."""
    return max(grids, key=math.prod, default=(0, 0))


def share_of(grid: Grid, finest: Grid) -> int:
    """Return n, a power of two: each side of `grid` is about 1/n as long as the same side of `finest`.

    Models halve their grids from level to level, so n is a power of two. If a side is odd, half of it is rounded, and
    the ratio of the sides is not exactly a power of two; then n is the nearest power of two.

    A grid that a paper names for one model can be written as 1/n, and then be used for other models and picture sizes.
    Example: Stable Diffusion at 512 pixels has the finest grid 64 x 64, so "16 x 16" in a paper about this model means
    "1/4".
    """
    return int(2 ** round(math.log2(math.prod(finest) / math.prod(grid)) / 2))


def _fits(entry: str | int | Grid, name: str, grid: Grid, finest: Grid) -> bool:
    if isinstance(entry, int):
        return grid[0] == entry
    if entry == ALL:
        return not name.startswith("mid_block")
    if isinstance(entry, str):
        share = _SHARE.fullmatch(entry)
        if share is not None:
            return share_of(grid, finest) == int(share[1])
        return name == entry or name.startswith(entry.rstrip(".") + ".")
    return grid == tuple(entry)
