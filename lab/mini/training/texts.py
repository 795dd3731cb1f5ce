"""Text of a scene for the denoiser: one of its captions, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

CUT_WIDTH = 32  # tokens of the longest caption; one width, for which compiled code is made once
NONE_SHARE = 0.12  # scenes without a text, for guidance (Ho and Salimans, arXiv:2207.12598)


@dataclass(frozen=True)
class TextBatch:
    """Text of a batch.

    Attributes:
        states: Hidden states of the text encoder, (sample, position, channel).
        attended: Positions that may be attended, (sample, position) bool; None where all may.
    """

    states: Tensor
    attended: Tensor | None


class Captions:
    """Draws a caption for each scene and encodes it.

    Args:
        of_scenes: Captions of each scene.
        tokenizer: Of the text encoder.
        encoder: The frozen text encoder.
        dtype: Type of the hidden states.
    """

    def __init__(
        self,
        of_scenes: Sequence[Sequence[str]],
        tokenizer: CLIPTokenizer,
        encoder: CLIPTextModel,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.of_scenes, self.tokenizer, self.dtype = of_scenes, tokenizer, dtype
        self.encoder = encoder.eval().requires_grad_(False).to(dtype)
        self._ids: dict[str, list[int]] = {}

    def encoded(self, scenes: np.ndarray, random: np.random.Generator, *, words_alone: bool) -> TextBatch:
        """A text for each scene.

        Args:
            scenes: Indices, (sample,).
            random: Decides which caption, or none.
            words_alone: Cut the texts short and leave end and padding out of the attention. Each of them holds the
                whole caption, so that a denoiser that always sees them can do without the words. An empty text keeps
                its end.
        """
        texts = [
            "" if random.random() < NONE_SHARE else self.of_scenes[i][int(random.integers(len(self.of_scenes[i])))]
            for i in scenes
        ]
        rows = [self._tokens(text) for text in texts]
        ends = torch.tensor([len(row) - 1 for row in rows])
        width = CUT_WIDTH if words_alone else self.tokenizer.model_max_length
        padding = self.tokenizer.pad_token_id
        ids = torch.tensor([(row + [padding] * width)[:width] for row in rows], device=self.encoder.device)
        with torch.no_grad():
            states = self.encoder(ids).last_hidden_state
        attended = torch.arange(width) < torch.where(ends == 1, 2, ends)[:, None] if words_alone else None
        return TextBatch(states, None if attended is None else attended.to(self.encoder.device))

    def _tokens(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, truncation=True).input_ids
        return self._ids[text]
