"""What is lost by storing less: maps of each storage type, and of the preset "small", beside float32 of everything.

On mini's scenes, so that masks are exact. Each scene is encoded once, in float32, and what it gave is rounded as a
capture would round it. A word's map is stretched to [0, 1] and cut at one threshold, which is chosen for float32 on
validation scenes and used for all.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from lab.performance.options import Options

SETTINGS = ("float32", "float16", "bfloat16", "int8", "preset small")
EVERYTHING = SETTINGS[0]
_THRESHOLDS = np.linspace(0.05, 0.95, 37)


def run(options: Options) -> dict[str, Any]:
    """Measure all settings; a quick run looks at a few scenes."""
    from lab.performance.models import mini

    model = mini(1)
    if model is None:
        return {"models": {"mini": {"skipped": "the embedded model is not trained yet"}}, "seed": 0}
    chosen_on, measured_on = (4, 6) if options.quick else (40, 100)
    threshold = _best_threshold(list(_scenes(model.pipe, "validation", chosen_on, (EVERYTHING,))))
    test = list(_scenes(model.pipe, "test", measured_on, SETTINGS))
    everything = _counts(test, EVERYTHING, threshold)
    rows = {}
    for name in SETTINGS:
        counts = _counts(test, name, threshold)
        rows[name] = {
            "bytes": int(np.mean([scene["bytes"][name] for scene in test])),
            "miou": _mean_iou(counts[:, :2], _classes(test)),
            "loss": _loss(everything, counts, _classes(test)),
            **_map_errors(test, name),
        }
    measured = {"model": model.name, "weights": model.weights, "threshold": threshold, "settings": rows}
    about = {"scenes": measured_on, "chosen on": chosen_on, "things": len(_classes(test))}
    return {"models": {"mini": measured | about}, "seed": 0}


def _scenes(pipe: Any, split: Any, count: int, settings: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Of each scene the maps of the classes it shows, (thing, height, width) by setting, their masks, and bytes."""
    import torch

    from lab.mini.measures.asking import Asking, enlarged
    from lab.mini.measures.words import SMALLEST, scenes_of
    from ovam import encode
    from ovam.backbones.registry import backbone_of
    from ovam.tracing.options import CaptureOptions
    from ovam.tracing.presets import with_preset

    asking, small = Asking(pipe), with_preset(CaptureOptions(preset="small"), backbone_of(pipe))
    for number, scene in enumerate(scenes_of(split, count)):
        names = sorted({t.name for t in scene.objects if scene.mask(t.name).sum() >= SMALLEST})
        if not names:
            continue
        found: dict[str, Any] = {"names": names, "masks": [scene.mask(n) for n in names], "maps": {}, "bytes": {}}
        whole = encode(pipe, scene.image, seed=number, dtype=torch.float32)
        for name in settings:
            preset = name == "preset small"
            part = whole.select(blocks=small.blocks) if preset else whole
            trace = _stored(part, small.dtype if preset else getattr(torch, name))
            found["maps"][name] = np.stack([enlarged(asking.map(trace, n), len(scene.image)) for n in names])
            found["bytes"][name] = trace.nbytes
        yield found


def _stored(trace: Any, dtype: Any) -> Any:
    """The same trace in another type, rounded once."""
    import torch

    from ovam.trace.quantised import quantised

    blocks = {}
    for name, block in trace.blocks.items():
        query = {half: quantised(q) if dtype == torch.int8 else q.to(dtype) for half, q in block.query.items()}
        blocks[name] = replace(block, query=query)
    return replace(trace, blocks=blocks)


def _classes(scenes: list[dict[str, Any]]) -> np.ndarray:
    """Class of each thing, all scenes in a row."""
    return np.array([name for scene in scenes for name in scene["names"]])


def _counts(scenes: list[dict[str, Any]], setting: str, threshold: float) -> np.ndarray:
    """Pixels in map and mask, and in either: (thing, 2)."""
    rows = []
    for scene in scenes:
        for values, mask in zip(scene["maps"][setting], scene["masks"], strict=True):
            stretched = (values - values.min()) / max(float(np.ptp(values)), 1e-8)
            rows.append([((stretched > threshold) & mask).sum(), ((stretched > threshold) | mask).sum()])
    return np.array(rows)


def _mean_iou(counts: np.ndarray, groups: np.ndarray) -> float:
    """IoU pooled over the things of a class, mean over classes."""
    pooled = [counts[groups == group].sum(0) for group in np.unique(groups)]
    return float(np.mean([both / either for both, either in pooled]))


def _best_threshold(scenes: list[dict[str, Any]]) -> float:
    groups = _classes(scenes)
    reached = [_mean_iou(_counts(scenes, EVERYTHING, float(t)), groups) for t in _THRESHOLDS]
    return float(_THRESHOLDS[int(np.argmax(reached))])


def _loss(everything: np.ndarray, counts: np.ndarray, groups: np.ndarray) -> list[float]:
    """What is lost of the mIoU of everything in float32, with its interval over classes and things."""
    from ovam.evaluate import paired_bootstrap

    def statistic(rows: np.ndarray, draws: np.ndarray) -> float:
        return _mean_iou(rows[:, :2], draws) - _mean_iou(rows[:, 2:], draws)

    found = paired_bootstrap(np.concatenate([everything, counts], axis=1), [groups], statistic=statistic)
    return [found.value, found.low, found.high]


def _map_errors(scenes: list[dict[str, Any]], setting: str) -> dict[str, float]:
    """Largest difference of a word's map from that of everything, over that range: mean and worst."""
    errors = [
        float(np.abs(values - whole).max() / max(float(np.ptp(whole)), 1e-8))
        for scene in scenes
        for values, whole in zip(scene["maps"][setting], scene["maps"][EVERYTHING], strict=True)
    ]
    return {"error": float(np.mean(errors)), "worst error": float(np.max(errors))}
