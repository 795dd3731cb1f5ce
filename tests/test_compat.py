"""Calls remembered from DAAM mean what they meant there."""

import json
import logging
import math
import sys
from types import ModuleType
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

import tiny
from ovam.compat.daam import (
    ExperimentFileError,
    GenerationExperiment,
    NoHeatMapsError,
    WordNotFoundError,
    set_seed,
    trace,
)
from ovam.errors import MissingBlockError, NothingCapturedError, OptionError, UnknownWordError
from ovam.testing import assert_restored, snapshot
from ovam.testing.assertions import ExplicitSoftmax

PROMPT = "a hot dog on the grass, a tree"
SIZE = {"height": 32, "width": 48, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def tracer():
    pipe = tiny.sd1()
    pipe.set_progress_bar_config(disable=True)
    with trace(pipe) as tracer:
        pipe(PROMPT, generator=torch.Generator().manual_seed(0), **SIZE)
    return tracer


def test_maps_are_daams_mean_where_daam_has_none(tracer):
    """Of a picture that is not square: DAAM's own rule, on the attention that the model computes."""
    pipe = tiny.sd1()
    grids = {name: block.grid for name, block in tracer.traces[0].blocks.items()}
    explicit = {name: ExplicitSoftmax() for name in grids}
    for name, processor in explicit.items():
        pipe.unet.get_submodule(name).set_processor(processor)
    pipe(PROMPT, generator=torch.Generator().manual_seed(0), **SIZE)
    finest, maps = max(grids.values()), []
    for name, processor in explicit.items():
        weights = sum(seen.weights.chunk(2)[1][0] for seen in processor.seen)  # conditional: (head, pixel, token)
        of_heads = weights.transpose(1, 2).unflatten(-1, grids[name])
        maps.append(F.interpolate(of_heads, finest, mode="bicubic").clamp(min=0))
    expected = torch.cat(maps).mean(0)
    found = tracer.compute_global_heat_map()
    assert found.heat_maps.shape[0] == 11  # start, eight words and the comma, end
    assert (found.heat_maps - expected[:11]).abs().max() < 1e-4  # measured: 6e-6


def test_a_word_is_the_mean_of_its_tokens_wherever_it_stands(tracer):
    whole = tracer.compute_global_heat_map()
    for word, positions in {"grass": [6], "a": [1, 8], "hot dog": [2, 3], "Tree": [9]}.items():
        assert torch.equal(whole.compute_word_heat_map(word).value, whole.heat_maps[positions].mean(0)), word


def test_expanded_maps_are_height_by_width(tracer):
    word = tracer.compute_global_heat_map().compute_word_heat_map("dog")
    image = tracer.last_image
    assert image.size == (48, 32)
    values = word.expand_as(image)
    assert values.shape == (32, 48)
    assert (values.min(), values.max()) == (pytest.approx(0), pytest.approx(1))
    assert word.expand_as(image, absolute=True).max() < 0.9
    assert set(word.expand_as(image, threshold=0.5).unique().tolist()) == {0.0, 1.0}


def test_an_overlay_is_a_picture_and_a_file(tracer, tmp_path):
    word = tracer.compute_global_heat_map().compute_word_heat_map("dog")
    picture = word.overlay(tracer.last_image)
    word.plot_overlay(tracer.last_image, out_file=tmp_path / "dog.png")
    with Image.open(tmp_path / "dog.png") as written:
        assert np.array_equal(np.asarray(written), np.asarray(picture))
    assert picture.size == tracer.last_image.size
    shares, own = word.expand_as(tracer.last_image).clamp(0, 1).numpy(), np.asarray(tracer.last_image)
    assert np.array_equal(np.asarray(picture)[shares == 0], own[shares == 0])
    assert (np.asarray(picture) != own).any()
    mask = word.overlay(tracer.last_image, threshold=0.5)
    assert not np.array_equal(np.asarray(mask), np.asarray(picture))


class TestOverlaysAreShown:
    """Where the caller looks, and once."""

    @pytest.fixture
    def word(self, tracer):
        return tracer.compute_global_heat_map().compute_word_heat_map("dog")

    @pytest.fixture
    def notebook(self, monkeypatch):
        package, display = ModuleType("IPython"), ModuleType("IPython.display")
        package.get_ipython, display.display = Mock(), Mock(return_value=None)
        monkeypatch.setitem(sys.modules, "IPython", package)
        monkeypatch.setitem(sys.modules, "IPython.display", display)
        monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
        return package, display

    def test_in_a_notebook(self, word, tracer, notebook):
        _, display = notebook
        assert word.plot_overlay(tracer.last_image) is None  # what is returned would be shown again
        (picture,) = display.display.call_args.args
        assert picture.size == tracer.last_image.size

    def test_in_a_figure_rather(self, word, tracer, notebook, monkeypatch):
        pyplot = Mock()
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", pyplot)
        word.plot_overlay(tracer.last_image)
        pyplot.imshow.assert_called_once()
        pyplot.title.assert_called_once_with("dog")
        notebook[1].display.assert_not_called()

    def test_on_axes_that_are_given(self, word, tracer, notebook):
        axes = Mock()
        word.expand_as(tracer.last_image, plot=True, ax=axes)
        axes.imshow.assert_called_once()
        notebook[1].display.assert_not_called()

    def test_not_in_a_program_that_imported_a_notebook_s_package(self, word, tracer, notebook):
        package, display = notebook
        package.get_ipython.return_value = None
        word.plot_overlay(tracer.last_image)
        display.display.assert_not_called()


def test_late_words_and_shares(tracer):
    late = tracer.compute_global_heat_map(prompt="a red boat")
    assert late.compute_word_heat_map("boat").value.shape == late.heat_maps.shape[1:]
    shares = tracer.compute_global_heat_map(normalize=True).heat_maps
    assert torch.allclose(shares[1:-1].sum(0), torch.ones(shares.shape[1:]), atol=1e-3)  # measured 1e-4


def test_factors_choose_grids(tracer):
    finest = tracer.compute_global_heat_map(factors={1}).heat_maps
    assert finest.shape[1:] == max(block.grid for block in tracer.traces[0].blocks.values())
    expected = tracer.traces[0].maps(PROMPT, softmax_over="padded", keep=("block",)).token_maps
    grids = [block.grid for block in tracer.traces[0].blocks.values()]
    mean = expected[[grid == max(grids) for grid in grids]].mean(0)[:11]
    assert torch.allclose(finest, mean * len(tracer.traces[0].calls), atol=1e-5)


def test_without_guidance_all_heads_count():
    pipe = tiny.sd1()
    with trace(pipe) as tracer:
        pipe(PROMPT, generator=set_seed(0), guidance_scale=1.0, **SIZE)
    heads = [tracer.compute_global_heat_map(head_idx=head).heat_maps for head in (0, 1)]
    whole = tracer.compute_global_heat_map().heat_maps
    assert torch.allclose(whole, torch.stack(heads).mean(0), atol=1e-6)
    assert not torch.allclose(whole, heads[1], atol=1e-3)


def test_every_family_has_rows_for_its_own_tokens():
    """Of joint attention, whose own tokens do not stand first, and of T5, which has no start token."""
    pipe = tiny.flux()
    with trace(pipe) as tracer:
        pipe("a dog, a tree.", num_inference_steps=1, height=16, width=24, max_sequence_length=16)
    whole = tracer.compute_global_heat_map()
    assert whole.tokens == ("a", "dog", ",", "a", "tree", ".", "<end>")
    assert torch.equal(whole.compute_word_heat_map("", word_idx=1).value, whole.compute_word_heat_map("dog").value)
    shares = tracer.compute_global_heat_map(normalize=True).heat_maps
    assert torch.allclose(shares[:-1].sum(0), torch.ones(shares.shape[1:]), atol=1e-2)


def test_a_run_takes_the_place_of_the_one_before():
    pipe = tiny.sd1()
    with trace(pipe) as tracer:
        for prompt in ("a dog", "a cat"):
            pipe(prompt, **SIZE)
            assert len(tracer.traces) == 1
    assert tracer.last_prompt == "a cat"


def test_the_pipeline_is_left_as_it_was():
    pipe = tiny.sd1()
    before = snapshot(pipe)
    with pytest.raises(ZeroDivisionError), trace(pipe):
        raise ZeroDivisionError
    assert_restored(pipe, before, "an error inside")
    assert "check_inputs" not in vars(pipe)


def test_low_memory_keeps_the_first_layer_of_each_block():
    pipe = tiny.sd1()
    with trace(pipe, low_memory=True) as tracer:
        pipe(PROMPT, **SIZE)
    assert tracer.layer_names == [
        f"{block}.attentions.0.transformer_blocks.0.attn2"
        for block in ("up_blocks.1", "up_blocks.2", "down_blocks.0", "down_blocks.1")
    ]


def test_queries_are_kept_as_the_model_computes_them(caplog):
    for dtype in (torch.float32, torch.bfloat16):
        pipe = tiny.sd1().to(dtype)
        with trace(pipe) as tracer, caplog.at_level(logging.ERROR):
            pipe(PROMPT, **SIZE)
        assert tracer.traces[0].dtype == dtype


def test_seeds_are_set_everywhere():
    drawn = []
    for _ in range(2):
        generator = set_seed(3)
        drawn.append((float(torch.rand(())), float(np.random.rand()), float(torch.rand((), generator=generator))))
    assert drawn[0] == drawn[1]
    assert drawn[0][0] == drawn[0][2]


class TestExperiments:
    @pytest.fixture
    def saved(self, tracer, tmp_path):
        experiment = tracer.to_experiment(tmp_path / "all", seed=7, id="first", factors={1})
        experiment.annotate("action", "sit").save()
        return experiment

    def test_come_back_as_they_were(self, tracer, saved, tmp_path):
        again = GenerationExperiment.load(tmp_path / "all" / "first")
        assert (again.prompt, again.seed, again.id, again.annotations) == (PROMPT, 7, "first", {"action": "sit"})
        assert torch.equal(again.global_heat_map, tracer.compute_global_heat_map(factors={1}).heat_maps)
        assert np.array_equal(np.asarray(again.image), np.asarray(tracer.last_image))
        for word in ("hot dog", ",", "Tree"):
            found, expected = (maps.compute_word_heat_map(word).value for maps in (again.heat_map(), saved.maps))
            assert torch.equal(found, expected)
        again.save()  # to where it was read from

    def test_have_daams_files_but_no_pickle(self, saved):
        names = {file.name for file in saved.path.iterdir()}
        assert names >= {"output.png", "prompt.txt", "seed.txt", "annotations.json", "dog.heat_map.png"}
        assert not list(saved.path.rglob("*.pt"))
        assert (saved.path / "prompt.txt").read_text() == PROMPT
        assert (saved.path / "seed.txt").read_text() == "7"

    def test_words_make_no_folders(self, tmp_path):
        pipe = tiny.sd1()
        with trace(pipe) as tracer:
            pipe("a ../dog", **SIZE)
        experiment = tracer.to_experiment(tmp_path / "here")
        experiment.save()
        written = experiment.save_heat_map("../")
        assert written.parent == tmp_path / "here"

    @pytest.mark.user_error
    def test_what_can_t_be_read_is_told(self, saved, tmp_path):
        with pytest.raises(FileNotFoundError, match="is not a file"):
            GenerationExperiment.load(tmp_path / "nowhere")
        saved.image.resize((3000, 1)).save(saved.path / "output.png", "BMP")
        with pytest.raises(ExperimentFileError, match="is not a complete experiment"):
            GenerationExperiment.load(saved.path)
        (saved.path / "generation.safetensors").unlink()
        (saved.path / "generation.pt").write_bytes(b"")
        with pytest.raises(ExperimentFileError, match=r"generation.pt is DAAM's pickle"):
            GenerationExperiment.load(saved.path)
        saved.path = None
        with pytest.raises(OptionError, match="has no path"):
            saved.save()

    @pytest.mark.parametrize(
        "change",
        [
            {"tokens": ["<start>"]},
            {"tokens": 3},
            {"words": [{"text": "dog", "tokens": [99]}]},
            {"words": [{"text": "dog"}]},
            {"prompt": None, "words": None},
        ],
        ids=json.dumps,
    )
    def test_files_that_hold_something_else(self, saved, change):
        path = saved.path / "generation.safetensors"
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["ovam"])
        save_file({"heat_maps": saved.global_heat_map}, path, {"ovam": json.dumps({**header, **change})})
        with pytest.raises(ExperimentFileError, match="is not a complete experiment"):
            GenerationExperiment.load(saved.path)


@pytest.mark.user_error
def test_what_is_not_there_is_named(tracer):
    whole = tracer.compute_global_heat_map()
    with pytest.raises(WordNotFoundError, match=r"word 'sky' is not in the prompt .*expected some of a, hot, dog"):
        whole.compute_word_heat_map("sky")
    for word, options in {"dog hot": {}, "": {}, "<end>": {}, "ho": {}, "dog": {"offset_idx": 50}}.items():
        with pytest.raises(WordNotFoundError):
            whole.compute_word_heat_map(word, **options)
    with pytest.raises(WordNotFoundError, match="word_idx=40"):
        whole.compute_word_heat_map("dog", word_idx=40)
    for options in ({"factors": {3}}, {"head_idx": 9}, {"layer_idx": 99}, {"head_idx": -1}):
        with pytest.raises(NoHeatMapsError, match="expected factors among"):
            tracer.compute_global_heat_map(**options)
    with trace(tiny.sd1()) as empty, pytest.raises(NothingCapturedError):
        empty.compute_global_heat_map()


@pytest.mark.user_error
def test_errors_are_those_that_daams_callers_catch(tracer):
    assert issubclass(WordNotFoundError, UnknownWordError)
    assert issubclass(NoHeatMapsError, MissingBlockError)
    with pytest.raises(ValueError, match="not in the prompt"):
        tracer.compute_global_heat_map().compute_word_heat_map("sky")
    with pytest.raises(RuntimeError, match="no heat maps found"):
        tracer.compute_global_heat_map(layer_idx=99)
    pipe = tiny.sd1()
    with trace(pipe) as empty:
        with pytest.raises(RuntimeError, match="nothing was captured"):
            empty.compute_global_heat_map()
        with pytest.raises(ValueError, match="a run of 2 prompts"):
            pipe(["a dog", "a cat"], **SIZE)
        pipe(["a dog"], **SIZE)
    assert math.isfinite(float(empty.compute_global_heat_map().heat_maps.sum()))
