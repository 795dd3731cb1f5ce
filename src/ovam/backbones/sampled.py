"""A quick fingerprint of large models: of a sample of their weights, since reading all would take longer than a run."""

import hashlib
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ovam.backbones.offload import marks, real_weights

SAMPLES = 1024
"""Most numbers that are read of one tensor, at even distances."""

_hashes: WeakKeyDictionary[Any, dict[torch.dtype, tuple[object, str]]] = WeakKeyDictionary()


@torch.no_grad()
def sampled_hash(model: Any, dtype: torch.dtype = torch.float32) -> str:
    """Hash of a sample of a model's weights, the same for float32 and float16 copies: 16 hexadecimal digits.

    Training and adapters change weights everywhere, so that a sample tells two models apart; it is no proof against
    one who hides a change. Computed again only when a weight was changed in place or exchanged.

    Args:
        model: A module.
        dtype: Type to round to first; bfloat16 gives the hash of the model's bfloat16 copy.
    """
    state, kept = marks(model), _hashes.setdefault(model, {})
    if dtype not in kept or kept[dtype][0] != state:
        kept[dtype] = (state, _hash(real_weights(model), dtype))
    return kept[dtype][1]


def _hash(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // SAMPLES)]
        rounded = sample.to(dtype) if dtype == torch.bfloat16 else sample
        digest.update(name.encode())
        digest.update(rounded.to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
