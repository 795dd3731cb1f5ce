"""What the denoisers are told of a scene: its own caption, that joined with another scene's, or nothing.

In some samples the caption is joined with that of another scene, as captions from the web name much that is not in
their picture: only there must the denoiser find out which words are true of what it sees. It did not by itself, so
that it is told which of the words belong to the picture: see `matching`. They are few: a denoiser that is often told
of what is not there learns not to draw what is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from ovam.mini.training.naming import named

CAPTION_SHARES, MASKED_ENDS = (0.35, 0.1, 0.55), 0.5  # none, joined, own
NAME_NOTHING = "a an the of and with in on to under next front big photograph photo picture image,"  # not looked for


@dataclass(frozen=True)
class Texts:
    """Texts of a batch, each (sample, position).

    Attributes:
        ids: Token numbers, padded.
        attended: Which positions may be attended. In half of the samples the end and padding tokens, each of which
            holds the whole caption, may not: a denoiser may then not do without the words.
        belongs: Where two captions are joined, 1 for tokens of the own alone and -1 for those of the other alone;
            else 0.
        names: (sample, name), of `naming.named`, where nothing is told; else 0 throughout.
    """

    ids: Tensor
    attended: Tensor
    belongs: Tensor
    names: Tensor


class Captions:
    """Draws a text for each scene, with or without the scene's own caption.

    Args:
        tokenizer: Of the text tower.
        of_scenes: Captions of each scene.
    """

    def __init__(self, tokenizer: CLIPTokenizer, of_scenes: Sequence[Sequence[str]]) -> None:
        self.tokenizer, self.of_scenes = tokenizer, of_scenes
        self._names_nothing = self._tokens(NAME_NOTHING)
        self.names = named(of_scenes)

    def texts(self, scenes: Tensor, random: np.random.Generator) -> Texts:
        """A text for each of these scenes."""
        captions = [self.pair(scene, random) for scene in scenes.tolist()]
        shuffled = [[pair[i] for i in random.permutation(2)] for pair in captions]
        joined = [", ".join(filter(None, pair)) for pair in shuffled]
        ids = self.tokenizer(joined, padding="max_length", truncation=True, return_tensors="pt").input_ids
        ends = (ids == self.tokenizer.eos_token_id).int().argmax(1, keepdim=True)
        wordless = ends == 1
        unmasked = torch.from_numpy(random.random((len(ids), 1)) >= MASKED_ENDS) | wordless
        attended = unmasked | (torch.arange(ids.shape[1]) < ends)
        return Texts(ids, attended, self.belonging(captions, ids), self.names[scenes] * wordless)

    def pair(self, scene: int, random: np.random.Generator) -> tuple[str, str]:
        """A caption of the scene, and one of any other scene; the latter or both may be empty."""
        kind = random.choice(["none", "joined", "own"], p=CAPTION_SHARES)
        other = int(random.integers(len(self.of_scenes)))
        return (
            str(random.choice(self.of_scenes[scene])) if kind != "none" else "",
            str(random.choice(self.of_scenes[other])) if kind == "joined" else "",
        )

    def belonging(self, captions: Sequence[tuple[str, str]], ids: Tensor) -> Tensor:
        """Which tokens (sample, position) belong to the picture, see `Texts`; those that name nothing are 0."""
        belongs = torch.zeros(ids.shape, dtype=torch.int64)
        for i, pair in enumerate(captions):
            if all(pair):
                own, other = (self._tokens(text) - self._names_nothing for text in pair)
                belongs[i] += torch.isin(ids[i], torch.tensor([*own - other]))
                belongs[i] -= torch.isin(ids[i], torch.tensor([*other - own])).int()
        return belongs

    def _tokens(self, text: str) -> set[int]:
        return set(self.tokenizer(text, add_special_tokens=False).input_ids)
