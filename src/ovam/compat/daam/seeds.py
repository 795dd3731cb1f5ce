"""One seed for everything that draws."""

import random

import numpy as np
import torch


def set_seed(seed: int) -> torch.Generator:
    """Seed Python, numpy and torch, and give a generator with that seed: on the GPU where there is one."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator(device="cuda" if torch.cuda.is_available() else "cpu").manual_seed(seed)
