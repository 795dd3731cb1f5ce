"""Stage 5: the oracles, on scenes for those who judge and on imitations of generated pictures.

Imitations are training scenes sent through the autoencoder, or re-noised and denoised by mini: they look generated
and their labels are known, up to what the denoiser changes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.multiprocessing import spawn  # type: ignore[attr-defined]
from torch.nn import functional as F

from lab.mini.imitation import imitate
from lab.mini.oracle import NAMES, build_oracle, load_oracles
from lab.mini.training.examples import IMITATED, Examples
from lab.mini.training.loop import (
    DEVICE,
    Average,
    Log,
    descend,
    half_precision,
    load_tensors,
    save_tensors,
    warm_cosine,
)
from lab.mini.training.pool import Pool
from ovam.errors import OptionError
from ovam.mini.scenes import CLASSES
from ovam.models import model_hash
from ovam.tensor_file import fingerprint

ITERATIONS, PEAK_RATE = 6000, 2e-3
WINDOW, WINDOWS, BATCH = 64, 32, 16  # side and number of windows a batch, and number of whole pictures
OF_WINDOWS = 0.78  # of the iterations, the first ones: a window costs a quarter of a picture
JUDGED = 24_000  # scenes of the split "judging"
RENOISED = 1500  # pictures; twice as many only go through the autoencoder
_STRENGTHS = (0.2, 0.6)  # shares of the noise schedule
_ENCODE_BATCH = 8
_CHECKPOINT_EVERY, _WARM_AGAIN = 100, 50


def train_oracles(
    pool: Pool,
    judged: Pool,
    pipe: Any,
    work: Path,
    folder: Path,
    *,
    start: Path | None = None,
    iterations: int = ITERATIONS,
    count: int = RENOISED,
    processes: int = 1,
) -> None:
    """Train both oracles and write them, in float16, to `folder`; each is skipped when it lies there.

    A run that is broken off goes on from its last checkpoint.

    Args:
        pool: Scenes of the split "train", which mini can imitate.
        judged: Scenes of the split "judging", which show every look that may have to be judged.
        pipe: The trained mini, which imitates.
        work: Keeps imitations and checkpoints, by the model that imitates.
        folder: Gets `a.safetensors`, `b.safetensors` and `training.json`.
        start: Oracles whose weights are taken up, for example the shipped ones; None starts from nothing.
        iterations: Of each oracle.
        count: Re-noised pictures; twice as many only go through the autoencoder.
        processes: 2 trains both at the same time, each in a process of one thread.

    Raises:
        OptionError: the folder holds oracles of another model or other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begun = {} if start is None else {name: oracle.state_dict() for name, oracle in load_oracles(start).items()}
    about = {
        "model": model_hash(pipe),
        "start": {name: fingerprint(weights) for name, weights in begun.items()},
        "iterations": iterations,
        "batch": BATCH,
        "windows": WINDOWS,
        "of_windows": OF_WINDOWS,
        "imitated": IMITATED,
        "renoised": count,
        "round_trips": 2 * count,
        "scenes": len(judged),
        "side": pool.size,
    }
    _check_made_alike(folder / "training.json", about)
    imitations = work / f"imitations-{pool.size}-{about['model']}-{count}.npy"
    _kept(imitations, lambda: _imitate(pool, pipe, count))
    prefix = work / f"oracle-{pool.size}-{about['model']}-{count}-{iterations}"
    missing = [name for name in NAMES if not (folder / f"{name}.safetensors").exists()]
    train_one = _OneOf(missing, pool, judged, imitations, prefix, folder, iterations, begun)
    if processes == 1:
        for rank in range(len(missing)):
            train_one(rank)
    elif missing:
        spawn(train_one.alone, nprocs=len(missing))


@dataclass(frozen=True)
class _OneOf:
    """Trains one of the missing oracles, and writes it to the folder."""

    missing: list[str]
    pool: Pool
    judged: Pool
    imitations: Path
    prefix: Path
    folder: Path
    iterations: int
    begun: dict[str, dict[str, Tensor]]

    def __call__(self, rank: int) -> None:
        name = self.missing[rank]
        examples = Examples(self.judged, np.load(self.imitations, mmap_mode="r"), self.pool.labels)
        checkpoint = self.prefix.with_name(f"{self.prefix.name}-{name}.checkpoint.safetensors")
        oracle = _trained(name, examples, checkpoint, self.iterations, self.begun.get(name))
        save_tensors({key: value.half() for key, value in oracle.items()}, self.folder / f"{name}.safetensors")

    def alone(self, rank: int) -> None:
        """The same in a process of its own."""
        torch.set_num_threads(1)
        self(rank)


def _check_made_alike(file: Path, about: dict[str, Any]) -> None:
    """Oracles in one folder are of one making, written down before the first is trained."""
    if file.exists() and json.loads(file.read_text()) != about:
        raise OptionError(
            f"folder {file.parent} holds oracles made otherwise ({file.read_text().strip()}), asked for was {about}: "
            "expected an empty folder, or one of the same model and settings"
        )
    file.write_text(json.dumps(about, indent=2) + "\n")


def _kept(path: Path, make: Any) -> np.ndarray:
    if not path.exists():
        temporary = path.with_suffix(".partial.npy")
        np.save(temporary, make())
        temporary.replace(path)
    return np.load(path, mmap_mode="r")


@torch.no_grad()
def _imitate(pool: Pool, pipe: Any, count: int) -> np.ndarray:
    """Imitations of the pool's first scenes: `count` re-noised ones, then twice as many round trips."""
    random = torch.Generator().manual_seed(4)
    pictures = []
    for start in track(range(0, 3 * count, _ENCODE_BATCH), "imitations"):
        indices = np.arange(start, min(start + _ENCODE_BATCH, 3 * count)) % len(pool)
        strength = None
        if start < count:
            low, high = _STRENGTHS
            strength = low + (high - low) * float(torch.rand((), generator=random))
        captions = [pool.captions[i][0] for i in indices]
        pictures.append(imitate(pipe, pool.pictures(indices, pool.size), captions, strength=strength, random=random))
    return np.concatenate(pictures)[: 3 * count]


def _trained(
    name: str, examples: Examples, checkpoint: Path, iterations: int, begun: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Averaged weights of an oracle after `iterations`, from wherever its checkpoint stands."""
    torch.manual_seed(NAMES.index(name))
    oracle = build_oracle(name).to(DEVICE)
    if begun is not None:
        oracle.load_state_dict(begun)
    average, start = Average(oracle, 0.998), 0
    if checkpoint.exists():
        start = _resume(oracle, average, checkpoint)
    random = np.random.default_rng((NAMES.index(name), start))  # a run that is taken up again sees other pictures
    optimiser = torch.optim.AdamW(oracle.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    log = Log(checkpoint.with_suffix(".log.jsonl"))
    for iteration in range(start + 1, iterations + 1):
        shape = (WINDOWS, WINDOW) if iteration <= OF_WINDOWS * iterations else (BATCH, examples.side)
        pictures, labels = examples.batch(random, *shape)
        with half_precision():
            scores = oracle(pictures.to(DEVICE, memory_format=torch.channels_last))  # convolutions 1.4 times as fast
        loss = F.cross_entropy(scores.float(), labels.to(DEVICE))
        warmth = min(1.0, (iteration - start) / _WARM_AGAIN)  # the optimiser's moments are not kept
        descend(optimiser, loss, warmth * warm_cosine(iteration, iterations, PEAK_RATE))
        average.update(iteration)
        log.add(iteration, loss.item(), things=_right(scores.argmax(1), labels.to(DEVICE)))
        if iteration % _CHECKPOINT_EVERY == 0:
            kept = {f"raw.{key}": value for key, value in oracle.state_dict().items()}
            kept |= {f"ema.{key}": value for key, value in average.values.items()}
            save_tensors(kept | {"iteration": torch.tensor(iteration)}, checkpoint)
    average.copy_to_model()
    return oracle.state_dict()


def _right(seen: Tensor, labels: Tensor) -> float:
    """Share of the pixels of things that are seen as what they are."""
    things = (labels > 0) & (labels <= len(CLASSES))
    return float((seen == labels)[things].float().mean())


def _resume(oracle: nn.Module, average: Average, checkpoint: Path) -> int:
    tensors = load_tensors(checkpoint)
    oracle.load_state_dict({key[4:]: value for key, value in tensors.items() if key.startswith("raw.")})
    average.values = {key: tensors[f"ema.{key}"] for key in average.values}
    return int(tensors["iteration"])
