"""One seed for all random generators."""

import random

import numpy as np
import torch


def set_seed(seed: int) -> torch.Generator:
    """Seed Python, numpy and torch; return a generator with that seed, on the GPU if there is one."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator(device="cuda" if torch.cuda.is_available() else "cpu").manual_seed(seed)
