"""Word gains of pictures, measured once and kept in files: each takes some seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lab.digest import digest, syntax_of
from ovam.maps.gains import WordGains
from ovam.mini.scenes import WORLD
from ovam.models import model_hash
from ovam.tracing.word_gains import GainOptions, measure_gains


def gains_of(pipe: Any, image: np.ndarray, words: Sequence[str], *, seed: int, name: str, work_dir: Path) -> WordGains:
    """Return the gains of words, which are compared with each other alone, from a file if they are there.

    Args:
        pipe: The model.
        image: (height, width, 3) uint8.
        words: All words that are asked.
        seed: Seed of the noises.
        name: Name of the picture, such as "test-1-3"; it tells the seed.
        work_dir: Where the files lie.
    """
    options = GainOptions(against=(), seed=seed)
    settings = {key: value for key, value in vars(options).items() if key != "seed"}
    about = [model_hash(pipe), WORLD, list(words), settings, syntax_of("ovam.tracing", "ovam.backbones")]
    file = work_dir / "gains" / digest(about) / f"{name}.npy"
    if not file.is_file():
        gains = measure_gains(pipe, image, list(words), options)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".partial")
        with temporary.open("wb") as opened:
            np.save(opened, gains.maps.numpy())
        temporary.replace(file)
    looks = len(options.timesteps) * options.noises
    return WordGains(tuple(words), torch.from_numpy(np.load(file)), looks)
