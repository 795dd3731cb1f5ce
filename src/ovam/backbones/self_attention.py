"""Self-attention of a denoiser's pixels, seen from the layers that make its queries and keys.

What `to_q` and `to_k` put out is what the attention kernel receives, whichever processor runs it; where projections are
fused, `to_qkv` puts out both, and values.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ovam.backbones.base import Observation, Report
from ovam.backbones.common import heads_apart
from ovam.errors import UnsupportedPipelineError

_PLAIN = {"AttnProcessor", "AttnProcessor2_0", "FusedAttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor"}

Watcher = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
"""A forward hook."""


def is_self(name: str, module: Any) -> bool:
    """Whether pixels attend to pixels alone in an attention module; adapters add others, of pixels and more."""
    return name.endswith(".attn1") and not module.is_cross_attention


def is_plain(module: Any) -> bool:
    """Return whether a processor runs an attention module whose queries and keys are known to be made once a call."""
    return type(module.processor).__name__ in _PLAIN


def pair_watchers(name: str, module: Any, report: Report) -> list[tuple[nn.Module, Watcher]]:
    """Layers to watch, and hooks for them that report the block's queries and keys together.

    The processor tells whether they are fused, not the module: after `unfuse_qkv_projections` the layer is still there.
    """
    waiting: list[Tensor] = []  # the query of the block's current call whose key has not been made yet

    def tell(query: Tensor, key: Tensor) -> None:
        report(name, Observation(heads_apart(query, module.heads), key=heads_apart(key, module.heads)))

    def on_query(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if waiting:
            raise _unpaired(name, "two queries")
        waiting.append(output)

    def on_key(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not waiting:
            raise _unpaired(name, "a key before its query, or two keys")
        tell(waiting.pop(), output)

    def on_end(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        waiting.clear()

    def on_fused(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        query, key, _ = output.chunk(3, dim=-1)
        tell(query, key)

    if type(module.processor).__name__.startswith("Fused"):
        return [(module.to_qkv, on_fused)]
    return [(module.to_q, on_query), (module.to_k, on_key), (module, on_end)]


def _unpaired(name: str, made: str) -> UnsupportedPipelineError:
    return UnsupportedPipelineError(
        f"block {name!r} made {made} in one call, so that which belong together is not known: expected one query, then "
        "one key; take off the attention processor or patch that runs its layers again, "
        "pipe.unet.set_default_attn_processor(), or leave the block out of self_attention"
    )
