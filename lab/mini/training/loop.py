"""What the three training stages share: precision, learning rate, averaged weights, safe checkpoints, a log."""

import json
import math
import time
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # of AdamW
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half_precision() -> AbstractContextManager[None]:
    """Autocast to bfloat16, 1.5 to 3 times as fast, where the processor multiplies it and does not only emulate it."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=multiplies_bfloat16())


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 and does not only emulate it."""
    return DEVICE.type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def warm_cosine(iteration: int, total: int, peak: float, warm: int = 200) -> float:
    """Learning rate: linear from 0 to `peak` over `warm` iterations, then a cosine down to 2 % of it."""
    if iteration < warm:
        return peak * (iteration + 1) / warm
    progress = min(1.0, (iteration - warm) / max(1, total - warm))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """One step of an optimiser with one group of parameters, at a learning rate, the gradient no longer than 1."""
    (group,) = optimiser.param_groups
    group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimiser.step()


class Average:
    """Exponential moving average of a model's parameters and running statistics, quick at first and slow later."""

    def __init__(self, model: nn.Module, longest: float = 0.999) -> None:
        self.longest = longest
        self.live = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
        self.values = {name: value.clone() for name, value in self.live.items()}

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        decay = min(self.longest, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(list(self.values.values()), list(self.live.values()), 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        for name, value in self.live.items():
            value.copy_(self.values[name])


class Peers:
    """The processes that train together, each on its own share of a batch; one alone by default.

    Args:
        rank: Number of this process.
        count: How many there are; more than one wants `torch.distributed` to be set up.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    def average(self, values: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        if self.count > 1:
            flat = torch.cat([value.flatten() for value in values])
            torch.distributed.all_reduce(flat)
            parts = flat.div_(self.count).split([value.numel() for value in values])
            for value, part in zip(values, parts, strict=True):
                value.copy_(part.view_as(value))


class Masters:
    """Float32 copies of a model's weights, which an optimiser moves; the model itself computes in bfloat16.

    Autocast would convert every weight at every call. Where the processor does not multiply bfloat16 the model stays
    in float32.

    Args:
        model: Converted in place.
        longest: Decay of the moving average of the weights in the long run.
    """

    def __init__(self, model: nn.Module, longest: float) -> None:
        self.dtype = torch.bfloat16 if multiplies_bfloat16() else torch.float32
        self.names = [name for name, _ in model.named_parameters()]
        self.values = [parameter.detach().float().clone() for parameter in model.parameters()]
        self.averages = [value.clone() for value in self.values]
        self.longest = longest
        self.live = list(model.to(self.dtype).parameters())
        self.optimiser = torch.optim.AdamW(self.values, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)

    @torch.no_grad()
    def step(self, rate: float, iteration: int, peers: Peers) -> None:
        """Move the weights by the gradients that lie in the model, and clear those.

        Args:
            rate: Learning rate.
            iteration: Number of this step, from 1; the average is quick at first and slow later.
            peers: Whose gradients are averaged.
        """
        gradients = [parameter.grad for parameter in self.live if parameter.grad is not None]
        peers.average(gradients)
        for value, gradient in zip(self.values, gradients, strict=True):
            value.grad = gradient.to(value.dtype)
        for parameter in self.live:
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self.values, 1.0)
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()
        torch._foreach_copy_(list[Tensor](self.live), self.values)
        decay = min(self.longest, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(self.averages, self.values, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, averages and the optimiser's moments, by name."""
        found = {}
        for name, value, average in zip(self.names, self.values, self.averages, strict=True):
            found[f"raw.{name}"], found[f"ema.{name}"] = value, average
            for moment, kept in self.optimiser.state.get(value, {}).items():
                found[f"{moment}.{name}"] = kept
        return found

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave, or averages alone, which then are the weights as well."""
        for name, value, average in zip(self.names, self.values, self.averages, strict=True):
            average.copy_(tensors[f"ema.{name}"])
            value.copy_(tensors.get(f"raw.{name}", average))
            moments = {key: tensors[f"{key}.{name}"] for key in _MOMENTS if f"{key}.{name}" in tensors}
            if moments:  # laid out in memory as the weights are: the fused step pairs numbers by their place there
                self.optimiser.state[value] = {
                    key: torch.empty_like(value).copy_(kept) if kept.shape == value.shape else kept
                    for key, kept in moments.items()
                }
        torch._foreach_copy_(list[Tensor](self.live), self.values)


def save_tensors(tensors: dict[str, Tensor], path: Path, **header: str) -> None:
    """Write a safetensors file under a temporary name and rename it, so that no half file is ever seen."""
    temporary = path.with_suffix(".partial")
    save_file({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, temporary, header)
    temporary.replace(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path, device=str(DEVICE))


class Log:
    """Appends one JSON line per report to `path` and prints it."""

    def __init__(self, path: Path, every: int = 50, *, silent: bool = False) -> None:
        self.path, self.every, self.silent, self.losses = path, every, silent, list[float]()
        self.start = time.monotonic()

    def add(self, iteration: int, loss: float, **more: int | float) -> None:
        self.losses.append(loss)
        if self.silent or (iteration % self.every and iteration != 1):
            return
        row = {"iteration": iteration, "loss": sum(self.losses) / len(self.losses), **more}
        row = {key: round(value, 5) for key, value in row.items()}
        row["seconds"] = round(time.monotonic() - self.start)
        self.losses.clear()
        with self.path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(self.path.stem, json.dumps(row), flush=True)
