"""Traces of scenes, encoded once and kept in a folder under names that tell what they are of."""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.digest import digest
from lab.fits.digest import encoding
from lab.fits.scenes import Scored
from ovam.models import model_hash
from ovam.trace.trace import Trace
from ovam.tracing.encode import encode

_APART = 10**9  # between the seeds of a scene's noises


@dataclass(frozen=True)
class View:
    """One way to look at a scene.

    Attributes:
        noise: Number of the noise that is put on it; 0 is the scene's own.
        mirrored: Left and right exchanged.
        timesteps: At which the denoiser looks, those chosen for the model when None.
    """

    noise: int = 0
    mirrored: bool = False
    timesteps: tuple[int, ...] | None = None

    def of(self, picture: np.ndarray) -> np.ndarray:
        """A picture, or a mask, as it is seen: (height, width) or more axes."""
        return np.ascontiguousarray(picture[:, ::-1]) if self.mirrored else picture


PLAIN = View()


class Traces:
    """Scenes as a model sees them with the empty prompt, and noise seeded by the scene.

    Args:
        pipe: The model.
        folder: Work folder; traces of another model or choice, or made by other code, lie in other folders of it.
        encoded: The choice: blocks and time steps, options of `encode`.
        self_attention: Grids whose self-attention is kept as well, which not every family has.
    """

    def __init__(
        self, pipe: Any, folder: Path, encoded: dict[str, Any], self_attention: Sequence[int] | None = None
    ) -> None:
        self.pipe, self.encoded, self.self_attention = pipe, encoded, self_attention
        self.model = model_hash(pipe)
        about = {"code": encoding(), **encoded} | ({"self_attention": self_attention} if self_attention else {})
        self.folder = folder / "traces" / f"{self.model}-{digest(about)}"
        self._held: dict[tuple[int, View], Trace] = {}

    def __call__(self, scene: Scored, view: View = PLAIN) -> Trace:
        """The trace of a scene, which stays in memory."""
        if (scene.seed, view) not in self._held:
            self._held[scene.seed, view] = self._found(scene, view)
        return self._held[scene.seed, view]

    def _found(self, scene: Scored, view: View) -> Trace:
        seen = "" if view == PLAIN else f"-{digest(astuple(view))}"
        picture = hashlib.sha256(scene.image.tobytes()).hexdigest()[:12]
        file = self.folder / f"{scene.split}-{scene.seed}-{picture}{seen}.safetensors"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            options = self.encoded | {"self_attention": self.self_attention}
            options |= {} if view.timesteps is None else {"timesteps": view.timesteps}
            encode(self.pipe, view.of(scene.image), seed=scene.seed + _APART * view.noise, **options).save(file)
        return Trace.load(file, self.pipe)
