"""Stage 3: a denoiser's training, phase after phase; it can be broken off and taken up again at any iteration.

Half size first, where a picture costs a third, then both in turns, full size alone last. What is told of a
scene, if anything, `texts` says. No mask of a thing supervises the attention.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from ovam.mini.training import alignment
from ovam.mini.training.loop import DEVICE, Average, Log, load_tensors, save_tensors
from ovam.mini.training.naming import levelled_shares
from ovam.mini.training.pool import Pool
from ovam.mini.training.text_tower import PICTURE_SIZE
from ovam.mini.training.texts import Captions, Texts

RATE, WARM_ITERATIONS, COOLING_ITERATIONS = 6e-4, 100, 1000
_CHECKPOINT_EVERY = 100


@dataclass(frozen=True)
class Phase:
    """`iterations` iterations on pictures of `sizes` in turns, each with its number of pictures a batch."""

    iterations: int
    sizes: tuple[tuple[int, int], ...]


class Objective(ABC):
    """A denoiser and what it is to learn.

    Attributes:
        model: The denoiser.
        alignment: Head on its features; trained with it, and dropped after training.
        weights: Of the parts of the loss.
    """

    model: Any
    alignment: alignment.Alignment
    weights: ClassVar[Mapping[str, float]]

    @abstractmethod
    def losses(self, clean: Tensor, pictures: Tensor, texts: Texts) -> dict[str, Tensor]:
        """The parts of the loss by the names in `weights`, each a mean over the batch.

        Args:
            clean: Scaled latents, (sample, 4, side, side).
            pictures: The same samples for the picture tower, (sample, 3, 64, 64), in [-1, 1].
            texts: What the denoiser is told of them.
        """


def _rate(iteration: int, since_resumed: int, total: int) -> float:
    """The learning rate: warmed up after every start, constant, and linearly down to 0 at the very end."""
    return RATE * min(1.0, (since_resumed + 1) / WARM_ITERATIONS, (total - iteration) / COOLING_ITERATIONS)


def checkpoint_of(folder: Path) -> Path:
    """Where a run's raw and averaged weights and its iteration are kept."""
    return folder.with_suffix(".checkpoint.safetensors")


def averaged(model: nn.Module, folder: Path) -> int:
    """Give a new model the averaged weights of a run as they stand; the iteration they are of."""
    tensors = load_tensors(checkpoint_of(folder))
    model.load_state_dict({name[4:]: value.cpu() for name, value in tensors.items() if name.startswith("ema.")})
    return int(tensors["iteration"])


class DenoiserTraining:
    """State of the run: raw weights, averaged weights, iteration; resumes from its own checkpoint.

    The rate is constant until the last stretch, so that a run may be broken off, shipped and taken up again at any
    iteration before it. The optimiser's moments are not kept: it is warmed up again.

    Args:
        folder: The checkpoint and the log are written beside it.
        make: Makes the denoiser, of random weights, and its objective.
        latents: Scaled latents of all scenes by the size of the pictures.
        pool: The scenes.
        tokenizer: Of the text tower.
        seed: Another one makes a sibling.
    """

    def __init__(
        self,
        folder: Path,
        make: Callable[[], Objective],
        latents: dict[int, Tensor],
        pool: Pool,
        tokenizer: CLIPTokenizer,
        *,
        seed: int = 0,
    ) -> None:
        self.seed = 2 + 10**6 * seed
        self.folder, self.latents, self.pool = folder, latents, pool
        self.captions = Captions(tokenizer, pool.captions)
        torch.manual_seed(self.seed)
        self.objective = make()
        self.model, self.alignment = self.objective.model, self.objective.alignment
        self.iteration = 0
        self.average = Average(self.model)
        self.checkpoint = checkpoint_of(folder)
        if self.checkpoint.exists():
            self._resume()
        torch.manual_seed(self.seed + self.iteration)  # a run that is taken up again sees other noise than before

    def _resume(self) -> None:
        tensors = load_tensors(self.checkpoint)
        self.iteration = int(tensors.pop("iteration"))
        self.model.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("raw.")})
        if told := {k[6:]: v for k, v in tensors.items() if k.startswith("align.")}:
            self.alignment.load_state_dict(told)
        self.average.values = {name: tensors[f"ema.{name}"] for name in self.average.values}  # in the model's order

    def _save(self) -> None:
        tensors = {f"raw.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"align.{name}": value for name, value in self.alignment.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.average.values.items()}
        save_tensors(tensors | {"iteration": torch.tensor(self.iteration)}, self.checkpoint)

    def run(self, phases: tuple[Phase, ...]) -> None:
        """Train through `phases`, from wherever the checkpoint stands."""
        trained = [*self.model.parameters(), *self.alignment.parameters()]
        optimiser = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.99), weight_decay=1e-2)
        log = Log(self.folder.with_suffix(".log.jsonl"))
        resumed_at, end_of_phase, end = self.iteration, 0, sum(phase.iterations for phase in phases)
        random = np.random.default_rng(self.seed + self.iteration)
        shares, draws = levelled_shares(self.captions.names), torch.Generator().manual_seed(self.seed + self.iteration)
        for phase in phases:
            end_of_phase += phase.iterations
            while self.iteration < end_of_phase:
                size, batch = phase.sizes[self.iteration % len(phase.sizes)]
                indices = torch.multinomial(shares, batch, generator=draws)
                pictures = self.pool.pictures(indices.numpy(), PICTURE_SIZE).to(DEVICE)
                texts = self.captions.texts(indices, random)
                losses = self.objective.losses(self.latents[size][indices].to(DEVICE).float(), pictures, texts)
                optimiser.param_groups[0]["lr"] = _rate(self.iteration, self.iteration - resumed_at, end)
                optimiser.zero_grad(set_to_none=True)
                torch.stack([self.objective.weights[name] * part for name, part in losses.items()]).sum().backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimiser.step()
                self.iteration += 1
                self.average.update(self.iteration)
                log.add(self.iteration, **{name: loss.item() for name, loss in losses.items()})
                if self.iteration % _CHECKPOINT_EVERY == 0:
                    self._save()
        self._save()
