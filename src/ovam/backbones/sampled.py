"""A quick hash of large models from a sample of their weights; reading all of them would take longer than a run."""

import hashlib
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ovam.backbones.offload import marks, real_weights

SAMPLES = 1024
"""Approximate number of values that are read from each tensor, evenly spaced."""

_hashes: WeakKeyDictionary[Any, dict[torch.dtype, tuple[object, str]]] = WeakKeyDictionary()


@torch.no_grad()
def sampled_hash(model: Any, dtype: torch.dtype = torch.float32) -> str:
    """Return a hash of a sample of a model's weights, 16 hexadecimal digits, equal for float32 and float16 copies.

    Training and adapters change weights everywhere, so a sample is enough to tell two models apart. It does not protect
    against a hidden change. The hash is computed again only if a weight was changed in place or replaced.

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
