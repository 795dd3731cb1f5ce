"""Open-vocabulary attention maps: run a diffusion model once, ask its attention for any words afterwards."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovam.capture import capture as capture
    from ovam.capture import stream as stream
    from ovam.encode import encode as encode
    from ovam.errors import OvamError as OvamError
    from ovam.masks import Segmentation as Segmentation
    from ovam.models import load as load
    from ovam.plan import plan as plan
    from ovam.text_side import TokenEmbedding as TokenEmbedding
    from ovam.tokens.optimize import optimize_tokens as optimize_tokens
    from ovam.tokens.token_set import TokenSet as TokenSet
    from ovam.trace import Trace as Trace
    from ovam.word_maps import AttentionMaps as AttentionMaps

__version__ = "0.1.0"
_HOMES = {
    "AttentionMaps": "word_maps",
    "OvamError": "errors",
    "Segmentation": "masks",
    "TokenEmbedding": "text_side",
    "TokenSet": "tokens.token_set",
    "Trace": "trace",
    "capture": "capture",
    "encode": "encode",
    "load": "models",
    "optimize_tokens": "tokens.optimize",
    "plan": "plan",
    "stream": "capture",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Public names are found when first used, so that `import ovam` loads nothing heavy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ovam' has no attribute {name!r}")
    value = getattr(import_module(f"ovam.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Keeps `ovam.capture` the function: importing the submodule of that name would otherwise hide it."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in _HOMES):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
