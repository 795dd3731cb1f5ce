"""Options for refining maps by self-attention."""

from dataclasses import dataclass
from typing import Literal, get_args

from ovam.checks import number, whole
from ovam.defaults import CHOSEN
from ovam.errors import OptionError
from ovam.trace.blocks import BlockChoice, checked_blocks

RefineMethod = Literal["powers", "restart", "sharpened"]


@dataclass(frozen=True, kw_only=True)
class RefineOptions:
    """Options for refining maps by self-attention. Values are checked when the object is made.

    S is the mean self-attention of the chosen blocks: each pixel has a row of weights over all pixels, which sums to 1.

    Attributes:
        method: "powers" multiplies the maps by S again and again. "restart" also mixes the unrefined map in at every
            product, so that it never fades out. "sharpened" multiplies by a sharpened S and stretches
            the result to the least and greatest value of the unrefined map.
        products: Number of products with S, at least 1.
        exponent: For "powers": every weight of S is raised to this exponent first, and the rows are made to sum to 1
            again. 1 leaves S as it is; more favours the pixels that are most alike.
        spread: For "restart": share of the product in each new map, in (0, 1); the rest is the unrefined map.
        sharpness: For "sharpened": how much weak weights lose; 0 loses nothing.
        blocks: Blocks of the kept self-attention, by module path or its beginning, by grid height (32) or grid
            ([(32, 48)]); by default those of the finest kept grid. Blocks of several grids give the mean of the maps
            refined at each grid.

    Raises:
        OptionError: a value is not allowed.
    """

    method: RefineMethod = CHOSEN["refine"]["method"]
    products: int = CHOSEN["refine"]["products"]
    exponent: float = CHOSEN["refine"]["exponent"]
    spread: float = CHOSEN["refine"]["spread"]
    sharpness: float = CHOSEN["refine"]["sharpness"]
    blocks: BlockChoice = None

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or self.method not in get_args(RefineMethod):
            raise OptionError(f"method={self.method!r}: expected one of {get_args(RefineMethod)}")
        object.__setattr__(self, "products", whole("products", self.products, least=1))
        for name, least, below in (("exponent", 0.0, 100.0), ("spread", 0.0, 1.0), ("sharpness", 0.0, 100.0)):
            value = number(name, getattr(self, name), least=least, below=below)
            if value == 0 and name != "sharpness":
                raise OptionError(f"{name}={value!r}: expected a number above 0")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "blocks", checked_blocks(self.blocks))


RefineChoice = bool | RefineOptions
"""Whether to refine: False, True for the default options, or options."""


def refine_choice(value: RefineChoice) -> RefineOptions | None:
    """Return the options, or None for no refinement.

    Raises:
        OptionError: `value` is neither a boolean nor `RefineOptions`.
    """
    if isinstance(value, RefineOptions):
        return value
    if isinstance(value, bool):
        return RefineOptions() if value else None
    raise OptionError(f"refine={value!r}: expected True, False or ovam.RefineOptions(...)")
