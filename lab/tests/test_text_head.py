"""The text tower's projection is fitted to the picture tower, and `ovam dataset score` compares with both."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lab.mini.training import text_head
from lab.mini.training.loop import load_tensors, save_tensors
from ovam.dataset.matcher import load_matcher
from ovam.errors import ModelNotFoundError
from ovam.mini.scenes import CLASSES, render, seed_of
from ovam.mini.towers import PICTURE_SIZE, PICTURE_TOWER, TEXT_HEAD, PictureTower
from ovam.models import mini_folder
from ovam.text_sides import text_of


class FewScenes:
    """As many scenes as a test needs, in place of the pool."""

    def __init__(self, work, count):
        self.scenes = [render(seed_of("train", i), split="train", size=PICTURE_SIZE) for i in range(count)]
        self.tower_captions = [[scene.caption, scene.caption] for scene in self.scenes]

    def __len__(self):
        return len(self.scenes)

    def pictures(self, indices, size):
        assert size == PICTURE_SIZE
        return torch.stack(
            [torch.from_numpy(self.scenes[i].image).permute(2, 0, 1).float() / 127.5 - 1 for i in indices]
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Mini's text tower beside a picture tower with random weights."""
    folder = tmp_path_factory.mktemp("models") / "towers"
    folder.mkdir()
    for name in ("model_index.json", "text_encoder", "tokenizer"):
        source = mini_folder() / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    torch.manual_seed(0)
    save_tensors(PictureTower(192).state_dict(), folder / PICTURE_TOWER)
    return folder


@pytest.fixture(scope="module")
def fitted(model):
    patch = pytest.MonkeyPatch()
    patch.setattr(text_head, "Pool", FewScenes)
    share = text_head.fit_text_head(model, model, scenes=10, iterations=80)
    patch.undo()
    return model, share


def test_texts_find_their_pictures(fitted):
    assert fitted[1] > 0.5  # measured: 1.0; 0.1 by chance


def test_a_class_is_weighed_against_the_mean_of_all(fitted):
    folder, _ = fitted
    picture = Image.fromarray(render(seed_of("train", 3), split="train").image)
    found = load_matcher(str(folder)).probabilities([picture], ["dog", "aeroplane"])[0]
    side, head, tower = text_of("mini"), load_tensors(folder / TEXT_HEAD), PictureTower(192).eval()
    tower.load_state_dict(load_tensors(folder / PICTURE_TOWER))
    small = np.array(picture.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BOX))
    with torch.no_grad():
        seen = tower(torch.from_numpy(small).permute(2, 0, 1)[None].float() / 127.5 - 1)[1][0].double()
    scores = {}
    for name in CLASSES:
        ids = side.tokenizer([f"{'an' if name[0] in 'aeiou' else 'a'} {name}"], return_tensors="pt").input_ids
        with torch.no_grad():
            vector = side.encoder(ids).last_hidden_state[0, -1].double() @ head["weight"].double().T
        scores[name] = float(head["scale"].double() * (vector @ seen) / vector.norm())
    mean = np.mean([np.exp(value) for value in scores.values()])
    for name, value in zip(("dog", "aeroplane"), found, strict=True):
        assert value == pytest.approx(np.exp(scores[name]) / (np.exp(scores[name]) + mean), abs=1e-4)


def test_a_model_without_its_towers_is_named(model, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(model, folder)
    (folder / TEXT_HEAD).unlink(missing_ok=True)
    with pytest.raises(ModelNotFoundError, match=r"has no text_head\.safetensors"):
        load_matcher(str(folder))
    (folder / PICTURE_TOWER).unlink()
    with pytest.raises(ModelNotFoundError, match=r"no picture_tower\.safetensors and no text_head"):
        load_matcher(str(folder))
