"""Open-vocabulary attention maps: run a diffusion model once, ask its attention for any words afterwards."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovam.errors import OvamError as OvamError
    from ovam.maps.gains import WordGains as WordGains
    from ovam.maps.options import MapOptions as MapOptions
    from ovam.maps.result import AttentionMaps as AttentionMaps
    from ovam.masks.options import MaskOptions as MaskOptions
    from ovam.masks.result import Segmentation as Segmentation
    from ovam.models import load as load
    from ovam.refine.crf_options import CrfOptions as CrfOptions
    from ovam.refine.options import RefineOptions as RefineOptions
    from ovam.tokens.optimize import optimize_tokens as optimize_tokens
    from ovam.tokens.options import FitOptions as FitOptions
    from ovam.tokens.token_set import TokenSet as TokenSet
    from ovam.trace.text_side import TokenEmbedding as TokenEmbedding
    from ovam.trace.trace import Trace as Trace
    from ovam.tracing.capture import capture as capture
    from ovam.tracing.capture import stream as stream
    from ovam.tracing.encode import encode as encode
    from ovam.tracing.encode_options import EncodeOptions as EncodeOptions
    from ovam.tracing.options import CaptureOptions as CaptureOptions
    from ovam.tracing.plan import plan as plan
    from ovam.tracing.word_gains import GainOptions as GainOptions
    from ovam.tracing.word_gains import word_gains as word_gains

__version__ = "0.1.0"
_HOMES = {
    "AttentionMaps": "maps.result",
    "CaptureOptions": "tracing.options",
    "CrfOptions": "refine.crf_options",
    "EncodeOptions": "tracing.encode_options",
    "FitOptions": "tokens.options",
    "GainOptions": "tracing.word_gains",
    "MapOptions": "maps.options",
    "MaskOptions": "masks.options",
    "OvamError": "errors",
    "RefineOptions": "refine.options",
    "Segmentation": "masks.result",
    "TokenEmbedding": "trace.text_side",
    "TokenSet": "tokens.token_set",
    "Trace": "trace.trace",
    "WordGains": "maps.gains",
    "capture": "tracing.capture",
    "encode": "tracing.encode",
    "load": "models",
    "optimize_tokens": "tokens.optimize",
    "plan": "tracing.plan",
    "stream": "tracing.capture",
    "word_gains": "tracing.word_gains",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Public names and modules are found when first used, so that `import ovam` loads nothing heavy."""
    if name in _HOMES:
        value = getattr(import_module(f"ovam.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and find_spec(f"ovam.{name}") is not None:
        return import_module(f"ovam.{name}")
    raise AttributeError(f"module 'ovam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
