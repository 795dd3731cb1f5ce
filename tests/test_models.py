"""Damaged folders of models: one error that names the folder, and never a model that knows other words."""

import json
import shutil

import pytest
import torch

import ovam
import tiny
from ovam.errors import ModelNotFoundError
from ovam.models import load, outline
from ovam.text_sides import text_of

BROKEN = {
    "no tokenizer": ("tokenizer", None, "its vocabulary is missing"),
    "an empty tokenizer": ("tokenizer/tokenizer.json", None, "its vocabulary is missing"),
    "a tokenizer without a length": ("tokenizer/tokenizer_config.json", "{}", "has no maximum length"),
    "a tokenizer of another kind": ("tokenizer/tokenizer.json", "3", "AttributeError"),
    "no text encoder": ("text_encoder", None, "could not be loaded"),
    "half of the weights": ("text_encoder/model.safetensors", "half", "SafetensorError"),
    "a list as configuration": ("text_encoder/config.json", "[]", "TypeError"),
    "a deep configuration": ("text_encoder/config.json", "[" * 100_000, "RecursionError"),
    "no index": ("model_index.json", "{}", "_class_name"),
    "an index of another kind": ("model_index.json", "3", "could not be loaded"),
    "an unknown pipeline": ("model_index.json", json.dumps({"_class_name": "Nothing"}), "Nothing"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "good"
    tiny.sd1().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trace(good, tmp_path_factory):
    pipe = load(good)
    with ovam.capture(pipe) as traces:
        pipe("a cat", num_inference_steps=1, height=32, width=32, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("traces") / "run.safetensors"
    traces[0].save(path)
    return path


def broken(good, folder, name):
    """A copy of the good folder with one file or folder taken away or replaced."""
    shutil.copytree(good, folder)
    place, content, _ = BROKEN[name]
    if content is None and (folder / place).is_dir():
        shutil.rmtree(folder / place)
    elif content is None:
        (folder / place).unlink()
    elif content == "half":
        (folder / place).write_bytes((folder / place).read_bytes()[:-1000])
    else:
        (folder / place).write_text(content)
    return folder


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_folder_is_named_and_not_the_trace(good, trace, tmp_path, name):
    folder, message = broken(good, tmp_path / "model", name), BROKEN[name][2]
    for read in (load, text_of, lambda folder: ovam.Trace.load(trace, text=folder)):
        with pytest.raises(ModelNotFoundError, match=message) as caught:
            read(folder)
        assert str(folder) in str(caught.value)
        assert str(trace) not in str(caught.value)


@pytest.mark.parametrize("name", ["no index", "an index of another kind", "an unknown pipeline"])
def test_an_outline_of_a_damaged_folder(good, tmp_path, name):
    with pytest.raises(ModelNotFoundError, match="could not be loaded"):
        outline(broken(good, tmp_path / "model", name))


def test_a_text_encoder_alone_is_checked_as_well(good, tmp_path):
    folder = broken(good, tmp_path / "model", "an empty tokenizer")
    (folder / "model_index.json").unlink()
    with pytest.raises(ModelNotFoundError, match="its vocabulary is missing"):
        text_of(folder)
