"""How well pictures show classes, by a model with a tower for texts and one for pictures, such as CLIP."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ovam.dataset.prompts import with_article
from ovam.dataset.towers_matcher import load_towers
from ovam.errors import ModelNotFoundError
from ovam.models import folder_of
from ovam.tensor_file import fingerprint

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training


class Matcher(Protocol):
    """Compares pictures with classes."""

    @property
    def name(self) -> str:
        """Name of the model."""
        ...

    @property
    def hash(self) -> str:
        """Hash of its weights."""
        ...

    def probabilities(
        self, pictures: Sequence[Image.Image], classes: Sequence[str]
    ) -> Float[np.ndarray, "picture class"]:
        """Return how likely each picture shows each class, in [0, 1]."""
        ...


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP of transformers. A class's probability is the softmax of "a dog" beside "not a dog".

    Attributes:
        name: Its name.
        model: The model.
        tokenizer: Its tokenizer.
        hash: Hash of its weights.

    Source:
        Filter of the data set in the code of vpulab/ovam, commit 12afd87.
    """

    name: str
    model: Any
    tokenizer: Any
    hash: str

    @torch.inference_mode()
    def probabilities(
        self, pictures: Sequence[Image.Image], classes: Sequence[str]
    ) -> Float[np.ndarray, "picture class"]:
        """Return how likely each picture shows each class, in [0, 1]."""
        texts = [text for name in classes for text in (with_article(name), f"not {with_article(name)}")]
        device = next(self.model.parameters()).device
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(device)
        pixels = torch.stack([self._pixels(picture) for picture in pictures]).to(device)
        scores = self.model(**tokens, pixel_values=pixels).logits_per_image.float()
        shares = scores.unflatten(1, (len(classes), 2)).softmax(dim=2)[..., 0]
        found: np.ndarray = shares.cpu().numpy()
        return found

    def _pixels(self, picture: Image.Image) -> Float[Tensor, "3 side side"]:
        """Return the middle square of a picture, brought to the model's size."""
        side = int(self.model.config.vision_config.image_size)
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        box = (left, top, left + short, top + short)
        square = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, box=box)
        values = (np.asarray(square, dtype=np.float32) / 255 - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def load_matcher(name: str, device: str | torch.device = "cpu") -> Matcher:
    """Load a model that compares pictures with classes.

    Args:
        name: Folder or id of a CLIP of transformers, such as openai/clip-vit-base-patch32; or mini, whose text encoder
            was trained with a picture tower.
        device: Where it runs.

    Raises:
        ModelNotFoundError: there is no such model, or it is no CLIP.
    """
    folder = folder_of(name)
    if (folder / "model_index.json").is_file():
        return load_towers(folder, Path(name).name, device)
    from transformers import AutoConfig, AutoTokenizer, CLIPModel

    try:
        kind = AutoConfig.from_pretrained(name).model_type
        if kind != "clip":
            raise ModelNotFoundError(f"model {name!r} is a {kind}: expected a CLIP of transformers")
        model = CLIPModel.from_pretrained(name).eval().to(device)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        if isinstance(error, ModelNotFoundError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ModelNotFoundError(
            f"model {name!r} could not be loaded ({reason}): expected the folder or id of a CLIP of transformers, such "
            "as openai/clip-vit-base-patch32"
        ) from error
    return Clip(Path(name).name, model, tokenizer, fingerprint(model.state_dict()))
