"""How a number is made: pairs measured alternately, a median with its bootstrap bounds, and a stamp."""

import argparse
import os
import platform
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BOOTSTRAP_SEED, RESAMPLES = 0, 10_000
PACKAGES = ("ovam", "torch", "diffusers", "transformers", "numpy")

Contender = Callable[[], float]
"""Does the work once and returns the seconds it took."""


FOLDERS = ("--work-dir", "--images-dir", "--chosen", "--output-dir", "--output")
"""Options whose values are folders and files of one machine."""


def as_typed(module: str, words: Sequence[str]) -> str:
    """Return a command as anyone could type it: without `FOLDERS`; of other absolute paths the name alone."""
    folders = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in FOLDERS:
        folders.add_argument(option)
    others = folders.parse_known_args(list(words))[1]
    shown = [Path(word).name if Path(word).is_absolute() else word for word in others]
    return shlex.join(["python", "-m", module, *shown])


@dataclass(frozen=True)
class Ratio:
    """Median of the ratios of pairs that were measured next to each other, with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{_short(self.median)}x ({_short(self.low)} to {_short(self.high)})"


def _short(number: float) -> str:
    return f"{number:.3f}" if number < 2 else f"{number:.2f}" if number < 10 else f"{number:.1f}"


def timed(work: Callable[[], object]) -> Contender:
    """The wall-clock seconds of one call."""

    def contender() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return contender


def alternately(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one round that is not counted.

    Every second round runs backwards, so that a machine that becomes slower or faster favours nobody.
    """
    names = list(contenders)
    for name in names:
        contenders[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(contenders[name]())
    return seconds


def ratio(above: list[float], below: list[float]) -> Ratio:
    """Median of above / below, pair by pair."""
    return middle(np.asarray(above) / np.asarray(below))


def middle(values: Sequence[float] | np.ndarray) -> Ratio:
    """Median of some numbers."""
    numbers = np.asarray(values)
    picks = np.random.default_rng(BOOTSTRAP_SEED).integers(len(numbers), size=(RESAMPLES, len(numbers)))
    low, high = np.percentile(np.median(numbers[picks], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(numbers)), float(low), float(high), len(numbers))


def ratios(seconds: Mapping[str, list[float]], pairs: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Named ratios of contenders, ready for JSON; those of which one side was not measured are left out."""
    return {
        name: asdict(ratio(seconds[above], seconds[below]))
        for name, (above, below) in pairs.items()
        if above in seconds and below in seconds
    }


def stamp(command: str) -> dict[str, Any]:
    """Everything about the machine and the software that a number depends on."""
    import torch

    return {
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "bootstrap_seed": BOOTSTRAP_SEED,
    }


def _processor() -> str:
    """Model name where Linux tells it; vendors' generic names get family and model beside them."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    lines = info.read_text().split("\n\n")[0].splitlines()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = found.get("model name", platform.machine())
    return f"{name} (family {found['cpu family']}, model {found['model']})" if "cpu family" in found else name
