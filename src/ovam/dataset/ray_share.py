"""How the resources of a Ray cluster and the units of a data set are shared out among workers."""

from collections.abc import Sequence
from dataclasses import dataclass

from ovam.dataset.units import Unit
from ovam.errors import OptionError

_MOST_IN_BLOCK, _TURNS, _MOST_BLOCKS = 8, 4, 20_000


@dataclass(frozen=True)
class Resources:
    """What a cluster has.

    Attributes:
        cpus: Cores of all machines.
        gpus: GPUs of all machines.
        machines: Number of machines.
    """

    cpus: float
    gpus: float
    machines: int


@dataclass(frozen=True)
class Share:
    """What each worker gets.

    Attributes:
        workers: Number of workers.
        cpus: Cores that a worker reserves. Ray uses the number to place workers; it does not limit their threads.
        gpus: GPUs of a worker.
        device: Device of its model.
    """

    workers: int
    cpus: float
    gpus: float
    device: str


def share_of(found: Resources, workers: int, device: str, threads: int) -> Share:
    """Divide the resources of a cluster among workers.

    All workers together leave at least one core of the cluster free: actors hold their cores until the job ends, and
    if they held all of them, Ray's other tasks would wait for ever.

    Args:
        found: What the cluster has.
        workers: Number of workers that was asked for, or 0.
        device: Device of the models.
        threads: Threads that each of them computes with.

    Raises:
        OptionError: there are too few GPUs, or a single one is named.
    """
    on_gpu = device.startswith("cuda")
    if on_gpu and device != "cuda":
        raise OptionError(f"device={device!r}: expected 'cuda', since Ray gives each worker a GPU of its own")
    if on_gpu:
        count = workers or int(found.gpus)
        if not 0 < count <= found.gpus:
            raise OptionError(
                f"{count or 'no'} workers on GPUs: the cluster has {found.gpus:.0f} GPUs; expected at most one worker "
                "for each, or device='cpu'"
            )
    else:
        count = workers or max(1, int(found.cpus) // threads)
    free = min(found.machines, found.cpus / 2)
    cpus = min(1.0, (found.cpus - free) / count)
    return Share(count, int(cpus * 10_000) / 10_000, 1.0 if on_gpu else 0.0, device)


def blocks_of(units: Sequence[Unit], workers: int) -> list[list[int]]:
    """Group the numbers of units into blocks, each of which a worker takes at once.

    Within a block, masks are made while the model runs on the next unit. Each worker gets several blocks, so that fast
    ones take more of them. There are at most 20 000 blocks, since Ray keeps a record of each.

    Args:
        units: The units.
        workers: Number of workers.
    """
    size = max(1, min(_MOST_IN_BLOCK, len(units) // (_TURNS * workers)), -(-len(units) // _MOST_BLOCKS))
    numbers = [unit.number for unit in units]
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]
