"""Stage 4: the denoiser's training. It can be broken off and taken up again at any iteration.

It learns from the denoising error alone: no mask, no supervision of attention, no auxiliary loss. Weights are bfloat16
beside float32 copies that the optimiser moves; several processes, of one thread each, average their gradients.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.mini.training.loop import DEVICE, Log, Masters, Peers, load_tensors, save_tensors
from lab.mini.training.texts import Captions
from lab.mini.training.unet import build_scheduler, build_unet, compile_blocks

WARM_ITERATIONS, CHECKPOINT_EVERY = 200, 500
LONGEST_AVERAGE = 0.9995
WHOLE_EVERY = 4  # one batch in so many sees end and padding tokens, as a pipeline gives them
WHERE_TEXT_COUNTS = 0.66  # share of the noisiest time step, around which shapes and things are decided


@dataclass(frozen=True)
class Phase:
    """A stretch of the training.

    Attributes:
        iterations: Its length.
        size: Side of the pictures in pixels.
        batch: Pictures an iteration, over all processes.
        rate: Learning rate at its start.
        last_rate: Learning rate at its end; linear in between.
    """

    iterations: int
    size: int
    batch: int
    rate: float
    last_rate: float


def phase_at(iteration: int, since_resumed: int, phases: Sequence[Phase]) -> tuple[Phase, float]:
    """Phase and learning rate of an iteration; every start is warmed up."""
    begun = 0
    for phase in phases:
        if iteration < begun + phase.iterations:
            share = (iteration - begun) / phase.iterations
            warmth = min(1.0, (since_resumed + 1) / WARM_ITERATIONS)
            return phase, warmth * (phase.rate + share * (phase.last_rate - phase.rate))
        begun += phase.iterations
    raise IndexError(f"iteration {iteration} lies beyond the phases' {begun}")


def checkpoint_of(folder: Path) -> Path:
    """Where a run's weights, averages, moments and iteration are kept."""
    return folder.with_suffix(".checkpoint.safetensors")


def averaged(model: nn.Module, folder: Path) -> int:
    """Give a new model the averaged weights of a run as they stand; the iteration they are of."""
    tensors = load_tensors(checkpoint_of(folder))
    model.load_state_dict({name[4:]: value.cpu() for name, value in tensors.items() if name.startswith("ema.")})
    return int(tensors["iteration"])


class DenoiserTraining:
    """A run: a UNet, its masters, averages and iteration; resumes from its own checkpoint.

    Args:
        folder: The checkpoint and the log are written beside it.
        latents: Scaled latents of the scenes, (view, scene, channel, height, width): as they are, and in the mirror.
        captions: Of the scenes.
        peers: The processes that train together.
        seed: Another one makes a sibling.
        compiled: Compile the transformer blocks, which takes minutes and pays after some hundred iterations.
        chances: Chance of each scene to be drawn, (scene,), with sum 1; None draws them evenly.
    """

    def __init__(
        self,
        folder: Path,
        latents: Tensor,
        captions: Captions,
        *,
        peers: Peers | None = None,
        seed: int = 0,
        compiled: bool = False,
        chances: np.ndarray | None = None,
    ) -> None:
        self.cumulated = np.linspace(0, 1, latents.shape[1] + 1)[1:] if chances is None else np.cumsum(chances)
        self.folder, self.latents, self.captions = folder, latents, captions
        self.peers, self.seed = peers or Peers(), 2 + 10**6 * seed
        torch.manual_seed(self.seed)
        self.model = build_unet().to(DEVICE).to(memory_format=torch.channels_last).train()
        self.masters = Masters(self.model, longest=LONGEST_AVERAGE)
        self.iteration = 0
        self.scheduler = build_scheduler()
        if checkpoint_of(folder).exists():
            self._resume()
        if compiled:
            compile_blocks(self.model)

    def _resume(self) -> None:
        tensors = load_tensors(checkpoint_of(self.folder))
        self.iteration = int(tensors.pop("iteration"))
        self.masters.load(tensors)

    def save(self) -> None:
        """Write the checkpoint; one process does."""
        if self.peers.rank == 0:
            save_tensors(
                self.masters.tensors() | {"iteration": torch.tensor(self.iteration)}, checkpoint_of(self.folder)
            )

    def loss(self, scenes: np.ndarray, random: np.random.Generator, *, words_alone: bool) -> Tensor:
        """Mean squared error of the velocity over the scenes, each at a time step of its own.

        Args:
            scenes: Indices, (sample,).
            random: Decides views, captions, time steps and noise.
            words_alone: See `Captions.encoded`.
        """
        views = torch.from_numpy(random.integers(len(self.latents), size=len(scenes)))
        clean = self.latents[views, torch.from_numpy(scenes)].to(DEVICE).float()
        noise = torch.from_numpy(random.standard_normal(clean.shape, dtype=np.float32)).to(DEVICE)
        timesteps = torch.from_numpy(self.timesteps(len(scenes), random)).to(DEVICE)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        velocity = self.scheduler.get_velocity(clean, noise, timesteps)
        texts = self.captions.encoded(scenes, random, words_alone=words_alone)
        dtype = self.masters.dtype
        predicted = self.model(
            noisy.to(dtype).contiguous(memory_format=torch.channels_last),
            timesteps,
            texts.states.to(dtype),
            encoder_attention_mask=texts.attended,
        ).sample
        return F.mse_loss(predicted.float(), velocity)

    def scenes(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Return indices of scenes, (count,), each drawn by its chance."""
        found = np.searchsorted(self.cumulated, random.random(count), side="right")
        return found.clip(max=len(self.cumulated) - 1)  # the last sum may be a little less than 1

    def timesteps(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Return time steps (sample,): half of them even, half from a logistic normal law around `WHERE_TEXT_COUNTS`.

        Text lowers the loss by 0.01 at time step 400 and by 0.08 at 900 (docs/decisions/0006-world-2.md).
        """
        even = (random.permutation(count) + random.random(count)) / count  # one from each of as many equal stretches
        centre = np.log(WHERE_TEXT_COUNTS / (1 - WHERE_TEXT_COUNTS))
        noisy = 1 / (1 + np.exp(-centre - 0.8 * random.standard_normal(count)))
        shares = np.where(random.random(count) < 0.5, even, noisy)
        found: np.ndarray = (shares * self.scheduler.config.num_train_timesteps).astype(np.int64)
        return found

    def run(self, phases: Sequence[Phase], *, until: int | None = None) -> None:
        """Train through `phases` from wherever the checkpoint stands.

        Args:
            phases: Of the whole training.
            until: Stop at this iteration, as if broken off.

        Raises:
            SystemExit: this is one of several processes, and the one that started them has ended.
        """
        parent = os.getppid()
        end = sum(phase.iterations for phase in phases)
        resumed_at, end = self.iteration, end if until is None else min(end, until)
        log = Log(self.folder.with_suffix(".log.jsonl"), every=200, silent=self.peers.rank > 0)
        random = np.random.default_rng((self.seed, self.iteration, self.peers.rank))
        while self.iteration < end:
            phase, rate = phase_at(self.iteration, self.iteration - resumed_at, phases)
            if self.peers.count > 1 and os.getppid() != parent:  # a second run may be writing to the folder by now
                raise SystemExit(f"process {self.peers.rank} ends: the command that started it has ended")
            count = max(1, phase.batch // self.peers.count)
            scenes = self.scenes(count, random)
            loss = self.loss(scenes, random, words_alone=self.iteration % WHOLE_EVERY > 0)
            loss.backward()
            self.iteration += 1
            self.masters.step(rate, self.iteration, self.peers)
            log.add(self.iteration, loss.item())
            if self.iteration % CHECKPOINT_EVERY == 0:
                self.save()
        self.save()
