"""`ovam.optimize_tokens` as one of the methods: the class asked with the border that the tokens bring."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lab.rivals.harness import Fitted, Mask
from ovam.tokens.optimize import optimize_tokens
from ovam.trace.trace import Trace


def fit(options: Mapping[str, Any], traces: Sequence[Trace], masks: Sequence[Mask], name: str) -> Fitted:
    """Tokens of one class, fitted to one annotation or several.

    Args:
        options: Keyword arguments of `optimize_tokens`.
        traces: Of the annotated images.
        masks: One a trace.
        name: The class.
    """
    tokens = optimize_tokens(traces, [{name: mask} for mask in masks], **options)

    @torch.no_grad()
    def scores(trace: Trace) -> np.ndarray:
        found: np.ndarray = trace.segment(tokens).scores[0].numpy()
        return found

    return scores
