"""One run of a model that both sides look at, and what is compared afterwards."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ovam.trace.trace import Trace
from ovam.tracing.capture import capture

ALLOWED = 1e-4
"""Largest difference of values in [0, 1]: both sides compute in float32, in another order."""
ALLOWED_PIXELS = 1e-3
"""Largest share of pixels with another label: those that lie at a threshold but for rounding."""


@dataclass(frozen=True)
class Run:
    """A run that is made once for each side, from the same noise.

    Attributes:
        pipe: A Stable Diffusion pipeline, float32.
        prompt: Its prompt.
        words: Words that are asked; each has one token and stands in the prompt.
        steps: Denoising steps.
    """

    pipe: Any
    prompt: str = "a cat on the grass"
    words: tuple[str, ...] = ("cat", "grass")
    steps: int = 10

    def go(self) -> Any:
        """Run the pipeline; return its picture."""
        seed = torch.Generator().manual_seed(0)
        with torch.no_grad():
            return self.pipe(self.prompt, num_inference_steps=self.steps, generator=seed).images[0]

    def captured(self, **needs: Any) -> Trace:
        """Return the trace of the run, in float32."""
        with capture(self.pipe, dtype=torch.float32, **needs) as traces:
            self.go()
        return traces[0]


@dataclass(frozen=True)
class Agreement:
    """How far one quantity of the library is from the authors' code.

    Attributes:
        method: Name of the method.
        what: The quantity.
        difference: Largest difference of values, or share of pixels that differ.
        allowed: What the difference may be at most.
    """

    method: str
    what: str
    difference: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.allowed

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def of_values(method: str, what: str, ours: Any, theirs: Any) -> Agreement:
    """Compare values."""
    first, second = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{method}, {what}: shapes {first.shape} and {second.shape}")
    return Agreement(method, what, float(np.abs(first - second).max()), ALLOWED)


def of_labels(method: str, what: str, ours: Any, theirs: Any) -> Agreement:
    """Compare labels or masks, pixel by pixel."""
    different = np.asarray(ours).astype(np.int64) != np.asarray(theirs).astype(np.int64)
    return Agreement(method, what, float(different.mean()), ALLOWED_PIXELS)


def table_rows(found: Sequence[Agreement]) -> list[tuple[str, str, str, str]]:
    """Return rows of a table: method, quantity, difference, what is allowed."""
    return [(one.method, one.what, f"{one.difference:.1e}", f"{one.allowed:.0e}") for one in found]
