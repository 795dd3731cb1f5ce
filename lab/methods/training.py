"""The training loop: one sample a step, checkpoints, and a run that was broken off goes on as if it had not been."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lab.methods.learners import Learner
from lab.methods.samples import Sample
from lab.mini.training.loop import save_tensors
from ovam.errors import OptionError
from ovam.maps.resize import resize
from ovam.mini.scenes import LABELS

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # of Adam


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        iterations: Number of steps.
        rate: Learning rate of Adam.
        late: Share of the steps after which the rate is a tenth; 1 for never.
        seed: Seed of what is drawn.
        every: Steps from one checkpoint to the next.
    """

    iterations: int
    rate: float
    late: float = 1.0
    seed: int = 0
    every: int = 100


def train(
    learner: Learner,
    samples: Sequence[Sample],
    schedule: Schedule,
    checkpoint: Path,
    report: Callable[[int, float], None] = lambda iteration, loss: None,
) -> None:
    """Train the learner's module in place.

    Args:
        learner: The method.
        samples: What it learns from; those without a class that is learnt are left out.
        schedule: How long and how fast.
        checkpoint: File that is written on the way, and read if it is there.
        report: Called after each step with its number, from 1 on, and its loss.

    Raises:
        OptionError: no sample shows a class that is learnt.
    """
    usable = [sample for sample in samples if sample.names(learner.classes)]
    if not usable:
        raise OptionError(f"none of the {len(samples)} samples shows a class that is learnt: expected at least one")
    module = learner.module.train()
    optimiser = torch.optim.Adam(module.parameters(), lr=schedule.rate)
    start = _resume(learner, optimiser, checkpoint) if checkpoint.exists() else 0
    for iteration in range(start, schedule.iterations):
        rng = np.random.default_rng((schedule.seed, iteration))  # each step draws the same, wherever a run began
        late = iteration >= schedule.late * schedule.iterations
        optimiser.param_groups[0]["lr"] = schedule.rate * (0.1 if late else 1.0)
        loss = learner.loss(usable[rng.integers(len(usable))], rng)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if (iteration + 1) % schedule.every == 0 or iteration + 1 == schedule.iterations:
            save_tensors(_state(learner, optimiser, iteration + 1), checkpoint)
        report(iteration + 1, loss.item())


def _state(learner: Learner, optimiser: torch.optim.Adam, iteration: int) -> dict[str, Tensor]:
    found = {f"module.{name}": value for name, value in learner.module.state_dict().items()}
    for name, parameter in learner.module.named_parameters():
        found |= {f"{moment}.{name}": optimiser.state[parameter][moment] for moment in optimiser.state[parameter]}
    return {name: value.clone() for name, value in found.items()} | {"iteration": torch.tensor(iteration)}


def _resume(learner: Learner, optimiser: torch.optim.Adam, checkpoint: Path) -> int:
    kept = load_file(checkpoint)
    learner.module.load_state_dict({name[7:]: value for name, value in kept.items() if name.startswith("module.")})
    for name, parameter in learner.module.named_parameters():
        moments = {moment: kept[f"{moment}.{name}"] for moment in _MOMENTS if f"{moment}.{name}" in kept}
        if moments:
            optimiser.state[parameter] = moments
    return int(kept["iteration"])


@torch.no_grad()
def measured(learner: Learner, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, float]:
    """Return the IoU of each class, pooled over the samples that show it, each asked for its true classes.

    Classes that no sample shows are left out.
    """
    learner.module.eval()
    both, either = dict.fromkeys(classes, 0), dict.fromkeys(classes, 0)
    for sample in samples:
        for name in sample.names(classes):
            found = resize(learner.log_odds(sample, name)[None], (sample.labels.shape[0], sample.labels.shape[1]))
            mask, known = (found[0] > 0).numpy(), sample.known
            wanted = sample.labels == LABELS[name]
            both[name] += int((mask & wanted & known).sum())
            either[name] += int(((mask | wanted) & known).sum())
    return {name: both[name] / count for name, count in either.items() if count}
