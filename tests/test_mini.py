"""The embedded model: an ordinary diffusers folder that needs nothing of ours, small, and able to do its job."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

import ovam
import tiny
from lab.mini.measures.asking import Asking, enlarged
from lab.mini.measures.words import scenes_of
from ovam.errors import OptionError
from ovam.evaluate import average_precision
from ovam.mini.scenes import CLASSES
from ovam.models import mini_folder


@pytest.fixture(scope="module")
def mini():
    pipe = ovam.load("mini")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_diffusers_loads_the_folder_with_nothing_of_ours():
    code = (
        "import sys; from diffusers import StableDiffusionPipeline as P\n"
        f"p = P.from_pretrained({str(mini_folder())!r}, local_files_only=True)\n"
        "p.set_progress_bar_config(disable=True)\n"
        "image = p('a cat on the grass', num_inference_steps=1).images[0]\n"
        f"assert image.size == {(tiny.mini_side(),) * 2} and not any(name.startswith('ovam') for name in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_weights_are_half_precision_and_within_forty_megabytes():
    files = [path for path in mini_folder().parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 40e6
    for path in mini_folder().rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            floats = {file.get_slice(name).get_dtype() for name in file.keys()} - {"I64"}  # noqa: SIM118
        assert floats == {"F16"}, path


def test_weights_of_the_text_encoder_have_the_names_that_older_transformers_look_for():
    """Transformers 5.0 finds none of the shorter names that newer versions write, and goes on with random weights."""
    with safe_open(mini_folder() / "text_encoder" / "model.safetensors", framework="pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118


def test_the_tokenizer_splits_some_class_names_and_reads_77_positions(mini):
    pieces = {word: len(mini.tokenizer.tokenize(word)) for word in ("cat", "dog", "motorbike", "aeroplane", "bicycle")}
    assert pieces["cat"] == pieces["dog"] == 1
    assert min(pieces["motorbike"], pieces["aeroplane"], pieces["bicycle"]) > 1
    assert mini.tokenizer.model_max_length == 77


def test_cross_attention_at_three_grids(mini):
    with ovam.capture(mini, blocks="all") as traces:
        mini("a cat on the grass", num_inference_steps=1)
    grids = {block.grid for block in traces[0].blocks.values()}
    finest = tiny.mini_side() // mini.vae_scale_factor
    assert grids == {(finest // n, finest // n) for n in (1, 2, 4)}


def test_the_class_word_fits_its_object_better_than_absent_words(mini):
    """Ten scenes of several classes, five absent classes each: a guard against broken weights, not a measurement.

    How large the difference is on test scenes, docs/mini.md tells.
    """
    gaps, asking = [], Asking(mini)
    for number, scene in enumerate(scenes_of("validation", 10, least=2)):
        trace = ovam.encode(mini, scene.image, seed=number)
        names = {thing.name for thing in scene.objects}
        others = [name for name in CLASSES[number % 4 :: 4] if name not in names]
        for name in names:
            truth = scene.mask(name)
            own, *absent = (
                average_precision(truth, enlarged(asking.map(trace, word), len(truth))) for word in (name, *others)
            )
            gaps.append(own - np.mean(absent))
    assert np.mean(gaps) > 0.1  # measured 0.202, standard error 0.039


def test_the_header_names_the_training(mini):
    about = json.loads((mini_folder() / "training.json").read_text())
    assert about["iterations"] > 0
    assert sum(phase["iterations"] for phase in about["phases"]) >= about["iterations"]


def test_a_generated_image_is_reproducible(mini):
    images = [
        mini("a dog on the sand", num_inference_steps=2, generator=torch.Generator().manual_seed(1)).images[0]
        for _ in range(2)
    ]
    assert images[0].tobytes() == images[1].tobytes()


@pytest.mark.user_error
def test_a_type_by_its_name_is_refused():
    with pytest.raises(OptionError, match=r"dtype='float16': expected a type of torch"):
        ovam.load("mini", dtype="float16")
