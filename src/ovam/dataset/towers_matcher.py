"""Compare pictures with classes by the towers of mini, offline."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ovam.dataset.prompts import with_article
from ovam.errors import ModelNotFoundError
from ovam.mini.scenes.vocabulary import CLASS_WORDS
from ovam.mini.towers import PICTURE_SIZE, PICTURE_TOWER, TEXT_HEAD, PictureTower, vectors_of
from ovam.tensor_file import fingerprint


@dataclass(frozen=True, eq=False)
class Towers:
    """The text tower of mini with its picture tower.

    They were not trained on negations such as "not a dog". So a class is compared with all classes of mini's scenes:
    its probability is exp(s) / (exp(s) + mean of exp(s) over all classes), where s is the scaled cosine of picture and
    text.

    Attributes:
        name: Name of the model.
        tokenizer: Its tokenizer.
        encoder: The text tower.
        tower: The picture tower.
        weight: Projection of the text tower's end token.
        scale: Factor on the cosine.
        hash: Hash of all weights.
    """

    name: str
    tokenizer: Any
    encoder: Any
    tower: PictureTower
    weight: Tensor
    scale: Tensor
    hash: str

    @torch.inference_mode()
    def probabilities(
        self, pictures: Sequence[Image.Image], classes: Sequence[str]
    ) -> Float[np.ndarray, "picture class"]:
        """Return how likely each picture shows each class, in [0, 1]."""
        seen = self._seen(pictures)
        own, all_ = (self.scale * (seen @ self._texts(names).T) for names in (classes, tuple(CLASS_WORDS)))
        mean = all_.logsumexp(dim=1, keepdim=True) - float(np.log(all_.shape[1]))
        found: np.ndarray = (own - mean).sigmoid().cpu().numpy()
        return found

    def _seen(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "picture channel"]:
        size = (PICTURE_SIZE, PICTURE_SIZE)
        small = [np.asarray(one.convert("RGB").resize(size, Image.Resampling.BOX)) for one in pictures]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1
        vectors: Tensor = self.tower(pixels.to(self.weight.device))[1]
        return vectors

    def _texts(self, names: Sequence[str]) -> Float[Tensor, "class channel"]:
        texts = [with_article(name) for name in names]
        ids = self.tokenizer(texts, padding=True, return_tensors="pt").input_ids.to(self.weight.device)
        return vectors_of(self.encoder(ids).last_hidden_state, ids, self.encoder.config.eos_token_id, self.weight)


def load_towers(folder: Path, name: str, device: str | torch.device) -> Towers:
    """Load the towers of a pipeline's folder.

    Args:
        folder: The folder.
        name: Name of the model.
        device: Where they run.

    Raises:
        ModelNotFoundError: the folder has no picture tower, or it was kept without the projection.
    """
    lacking = [file for file in (PICTURE_TOWER, TEXT_HEAD) if not (folder / file).is_file()]
    if lacking:
        raise ModelNotFoundError(
            f"model {name!r} has no {' and no '.join(lacking)} beside its text encoder: expected a picture tower that "
            "was trained with it, or the folder or id of a CLIP; in a checkout, python -m lab.mini text-head makes the "
            "second file"
        )
    from transformers import CLIPTextModel, CLIPTokenizer

    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval().to(device)
    tower, head = PictureTower(encoder.config.hidden_size).eval(), load_file(folder / TEXT_HEAD)
    tower.load_state_dict(load_file(folder / PICTURE_TOWER))
    weights = {**encoder.state_dict(), **tower.state_dict(prefix="tower."), **head}
    return Towers(
        name,
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        encoder,
        tower.to(device),
        head["weight"].float().to(device),
        head["scale"].float().to(device),
        fingerprint(weights),
    )
