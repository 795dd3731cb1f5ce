"""Traces of scenes, encoded once and kept in a folder under names that tell what they are of."""

from pathlib import Path
from typing import Any

from benchmarks.fits.digest import digest
from ovam.encode import encode
from ovam.mini.scenes import WORLD, Scene
from ovam.models import model_hash
from ovam.trace import Trace


class Traces:
    """Scenes as a model sees them with the empty prompt, and noise seeded by the scene.

    Args:
        pipe: The model.
        folder: Work folder; traces of another model, world or choice lie in other folders of it.
        encoded: The choice: blocks and time steps, options of `encode`.
    """

    def __init__(self, pipe: Any, folder: Path, encoded: dict[str, Any]) -> None:
        self.pipe, self.encoded = pipe, encoded
        self.model = model_hash(pipe)
        self.folder = folder / "traces" / f"{self.model}-{digest({'world': WORLD, **encoded})}"
        self._held: dict[int, Trace] = {}

    def __call__(self, scene: Scene) -> Trace:
        """The trace of a scene, which stays in memory."""
        if scene.seed not in self._held:
            self._held[scene.seed] = self._found(scene)
        return self._held[scene.seed]

    def _found(self, scene: Scene) -> Trace:
        file = self.folder / f"{scene.split}-{scene.seed}.safetensors"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            encode(self.pipe, scene.image, seed=scene.seed, **self.encoded).save(file)
        return Trace.load(file, self.pipe)
