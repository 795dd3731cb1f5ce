"""mini-dit beside mini: words on joint attention, asked after the run or given before it, and how good maps are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from ovam.capture import capture, stream
from ovam.evaluate import Interval
from ovam.mini.measures.choices import choose
from ovam.mini.measures.curves import THRESHOLD, class_ious
from ovam.mini.measures.words import SMALLEST, WordRow, look_at_words, scenes_of, spread_of, summary
from ovam.mini.oracle import as_input
from ovam.mini.scenes import CLASSES, Scene
from ovam.models import model_hash

WITHIN = 0.02
"""Replayed words may differ so much in mIoU from the same words given at capture."""


@dataclass(frozen=True)
class View:
    """A scene as the denoiser sees it at one noise level: its latent (1, 4, side, side), and the time step."""

    noisy: Tensor
    timestep: int


def measure_joint(pipe: Any, dit: Any, *, scenes: int = 60, **options: Any) -> dict[str, Any]:
    """Both ways to ask mini-dit, and its word maps beside mini's on the same test scenes, with the empty prompt.

    Args:
        pipe: mini.
        dit: mini-dit, of the same world.
        scenes: Number of validation scenes that blocks and time steps are chosen on, and of test scenes.
        **options: Blocks and time steps that were chosen for mini, as `encode` takes them.
    """
    best = choose(dit, scenes=scenes)["best"]
    found = {
        "mini": look_at_words(pipe, scenes=scenes, **options),
        "mini-dit": look_at_words(dit, scenes=scenes, **best),
    }
    gain = _gain(found["mini-dit"].things, found["mini"].things)
    return {
        "model": model_hash(dit),
        "scenes": scenes,
        "encoded": best,
        "ways": compare_ways(dit, scenes=scenes, **best),
        "words": {
            name: {
                "objects": summary(seen.things),
                "grounds": summary(seen.grounds),
                "presence_auroc": seen.presence_auroc(),
            }
            for name, seen in found.items()
        },
        "above mini": gain.listed(),
    }


def _gain(first: Sequence[WordRow], second: Sequence[WordRow]) -> Interval:
    """Difference of the own word's average precision on the same things, over classes and their scenes."""
    assert [(row.scene, row.name) for row in first] == [(row.scene, row.name) for row in second]
    return spread_of(first, [one.own - other.own for one, other in zip(first, second, strict=True)])


def compare_ways(dit: Any, *, scenes: int, blocks: Sequence[str] | None, timesteps: Sequence[int]) -> dict[str, Any]:
    """IoU of class words on test scenes where the class is there, by each way of asking.

    Every way sees the same noise; one threshold of stretched maps for all. A list of words: each its own prompt.

    Returns:
        `by way`: `IoU` pooled for each class and averaged, and `IoU by image`; `late minus given`: of the pooled one;
        `furthest`: greatest difference of a late map's value from the given word's.
    """
    found: dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]] = {way: {} for way in WAYS}
    furthest = 0.0
    for number, scene in enumerate(track(scenes_of("test", scenes, least=2), "ways", scenes)):
        names = sorted({thing.name for thing in scene.objects if scene.mask(thing.name).sum() >= SMALLEST})
        if not names:
            continue
        views = views_of(dit, scene, timesteps, seed=number)
        maps = {way: ask(dit, views, names, blocks) for way, ask in WAYS.items()}
        furthest = max(furthest, float(np.abs(maps[LATE] - maps[GIVEN]).max()))
        for way, of_words in maps.items():
            for name, values in zip(names, of_words, strict=True):
                found[way].setdefault(name, []).append((values, scene.mask(name).astype(int)))
    by_way = {way: _ious(classes) for way, classes in found.items()}
    return {
        "by way": by_way,
        "late minus given": by_way[LATE]["IoU"] - by_way[GIVEN]["IoU"],
        "furthest": furthest,
    }


def _ious(classes: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]) -> dict[str, float]:
    pooled = class_ious(list(classes.values()), (THRESHOLD,))
    single = [class_ious([[row]], (THRESHOLD,))[0] for rows in classes.values() for row in rows]
    return {"IoU": float(pooled.mean()), "IoU by image": float(np.mean(single))}


@torch.no_grad()
def views_of(dit: Any, scene: Scene, timesteps: Sequence[int], *, seed: int) -> list[View]:
    """The scene's latent, mixed with noise in a straight line at each time step, most noise first."""
    latent = dit.vae.encode(as_input(scene.image[None])).latent_dist.mean * dit.vae.config.scaling_factor
    random = torch.Generator().manual_seed(seed)
    shares = [(timestep, timestep / dit.scheduler.config.num_train_timesteps) for timestep in sorted(timesteps)[::-1]]
    return [
        View(latent.lerp(torch.randn(latent.shape, generator=random), share), timestep) for timestep, share in shares
    ]


def _run(dit: Any, view: View) -> None:
    """One evaluation by the pipeline's own call, with the empty prompt."""
    share = view.timestep / dit.scheduler.config.num_train_timesteps
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
    dit("", latents=view.noisy, sigmas=[share], **options)


def _late(dit: Any, views: Sequence[View], words: Sequence[str], blocks: Sequence[str] | None) -> np.ndarray:
    """Asked of traces, which keep image keys and values in float16, as by default."""
    with capture(dit, blocks=blocks) as traces:
        for view in views:
            _run(dit, view)
    return np.mean([trace.maps(list(words)).stacked().numpy() for trace in traces], axis=0)


def _given(dit: Any, views: Sequence[View], words: Sequence[str], blocks: Sequence[str] | None) -> np.ndarray:
    with stream(dit, list(words), blocks=blocks) as maps:
        for view in views:
            _run(dit, view)
    return np.mean([each.stacked().numpy() for each in maps], axis=0)


def _in_output_space(dit: Any, views: Sequence[View], words: Sequence[str], blocks: Sequence[str] | None) -> np.ndarray:
    """Shares of the attention outputs, for which the words of all classes compete: a word alone would have them all."""
    with capture(dit, blocks=blocks, outputs=True) as traces:
        for view in views:
            _run(dit, view)
    shares = [trace.maps(list(CLASSES), strategy="output").stacked().numpy() for trace in traces]
    return np.mean(shares, axis=0)[[CLASSES.index(word) for word in words]]


LATE, GIVEN, OUTPUT = "replayed after the run", "given at capture", "in the output space, among all classes"
WAYS: Mapping[str, Callable[[Any, Sequence[View], Sequence[str], Sequence[str] | None], np.ndarray]] = {
    LATE: _late,
    GIVEN: _given,
    OUTPUT: _in_output_space,
}
"""Ways to ask: from the pipeline, views of a scene, words and blocks to maps (word, height, width), means of views."""
