"""The lines of docs/coming-from.md give the numbers that the other tools' own code gave on the same pipelines."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import ovam
import steady
from ovam.compat.concept_attention import concept_maps
from ovam.compat.daam import trace
from ovam.errors import OptionError

ROOT = Path(__file__).parent
PAGE = (ROOT.parent / "docs" / "coming-from.md").read_text()
DATA = ROOT / "data"
PROMPT = "A dog's red hat, a dog and a hot frog on the grass."
CONCEPTS = ["dog", "frog", "grass", "sky"]
SMALL = "height=64, width=64, max_sequence_length=32, output_type='latent'"  # of joint attention
EVERY = 4


def lines(heading, number, language="python"):
    """A block of the page."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[number]


def run(text, names, more=""):
    """Run lines of the page on the prompt, seed and number of steps that the values were made with."""
    code = re.sub(r"num_inference_steps=\d+", f"num_inference_steps=2, generator=seed(), {more}", text)
    code = code.replace('"a dog on the sand"', repr(PROMPT)).replace('["dog", "sand", "sky"]', repr(CONCEPTS))
    assert PROMPT in code or "generator" not in code
    exec(compile(code, "docs/coming-from.md", "exec"), names)
    return names


def named(pipe):
    return {"pipe": pipe, "torch": torch, "ovam": ovam, "seed": seed}


def seed():
    return torch.Generator().manual_seed(0)


def thinned(maps, every=EVERY):
    return maps[..., ::every, ::every]


def off(found, expected):
    """Largest difference, of equal shapes."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


@pytest.fixture(scope="module")
def sd():
    return steady.sd()


@pytest.fixture(scope="module")
def flux():
    return steady.flux()


@pytest.fixture(scope="module")
def tracer(sd):
    with trace(sd) as tracer:
        sd(PROMPT, num_inference_steps=2, generator=seed())
    return tracer


@pytest.fixture(scope="module")
def authors(sd):
    return run(lines("vpulab/ovam", 0), named(sd))


@pytest.fixture(scope="module")
def concepts(flux):
    return run(lines("ConceptAttention", 0, "py"), named(flux), SMALL)


@pytest.mark.parametrize("name", ["daam", "vpulab_ovam", "attention_map_diffusers", "concept_attention"])
def test_values_tell_what_made_them(name):
    with safe_open(DATA / f"{name}.safetensors", framework="pt") as file:
        assert {"tool", "torch", "diffusers"} == set(json.loads(file.metadata()["made"]))
    assert (DATA / f"make_{name}.py").is_file()


class TestDaam:
    values = load_file(DATA / "daam.safetensors")

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("sd.factors.1", {"factors": {1}}),
            ("sd.factors.24", {"factors": [2, 4]}),
            *((f"sd.layer.{layer}", {"layer_idx": layer}) for layer in range(9)),
            *((f"sd.head.{head}", {"head_idx": head}) for head in (0, 3)),
        ],
    )
    def test_parts_of_the_mean(self, tracer, name, options):
        found = tracer.compute_global_heat_map(**options).heat_maps[2]
        assert off(thinned(found), self.values[name]) <= 1e-5  # measured: 4.7e-6 of 0.8

    def test_maps_of_all_tokens(self, tracer):
        """One row for each token, the last punctuation and the end among them."""
        assert off(thinned(tracer.compute_global_heat_map().heat_maps), self.values["sd"]) <= 9e-6  # measured: 9.2e-7
        shares = tracer.compute_global_heat_map(normalize=True).heat_maps
        assert off(thinned(shares), self.values["sd.normalize"]) <= 9e-6  # measured: 1.1e-6

    @pytest.mark.parametrize(
        ("number", "word"), list(enumerate(["dog", "dog's", "red hat", ",", ".", "frog", "A"])), ids=str
    )
    def test_words_and_their_masks(self, tracer, number, word):
        """A word in another, punctuation, several words, and one of several tokens."""
        found = tracer.compute_global_heat_map().compute_word_heat_map(word)
        image = Image.new("RGB", (48, 48))
        assert off(thinned(found.value), self.values[f"sd.word.{number}"]) <= 9e-6  # measured: 6.6e-7
        assert off(thinned(found.expand_as(image)), self.values[f"sd.expanded.{number}"]) <= 1e-4  # measured: 3.3e-6
        assert torch.equal(found.expand_as(image, threshold=0.4).bool(), self.values[f"sd.mask.{number}"])

    def test_a_token_by_its_number(self, tracer):
        found = tracer.compute_global_heat_map().compute_word_heat_map("", word_idx=3)
        assert off(thinned(found.value), self.values["sd.word_idx.3"]) <= 9e-6

    def test_another_size_lies_on_the_same_lattice(self, sd):
        with trace(sd) as tracer:
            sd(PROMPT, num_inference_steps=2, generator=seed(), height=256, width=256)
        found = tracer.compute_global_heat_map().heat_maps[:4]
        assert off(thinned(found), self.values["sd.256"]) <= 9e-6  # measured: 1.4e-6

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Euler's scheduler, older ones
    def test_xl_counts_from_half_the_latent(self):
        pipe = steady.sdxl()
        with trace(pipe) as tracer:
            pipe(PROMPT, num_inference_steps=2, generator=seed(), output_type="latent")
        found = tracer.compute_global_heat_map().heat_maps[:4]
        assert off(thinned(found), self.values["sdxl"]) <= 2e-5  # measured: 6.2e-6
        coarse = tracer.compute_global_heat_map(factors={2}).heat_maps[2]
        assert off(thinned(coarse), self.values["sdxl.factors.2"]) <= 2e-5  # measured: 3.8e-6

    def test_its_readme_runs_but_for_the_import(self, tmp_path, monkeypatch):
        """On the embedded model, in fewer steps, and with a stand-in for matplotlib, which need not be here."""
        monkeypatch.chdir(tmp_path)
        pyplot, package = Mock(spec=["clf", "imshow", "title", "show"]), ModuleType("matplotlib")
        package.pyplot = pyplot
        monkeypatch.setitem(sys.modules, "matplotlib", package)
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", pyplot)
        loaded = Mock(return_value=ovam.load("mini"))
        monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", loaded)
        names = {}
        text = lines("daam", 0, "py").replace("'cuda'", "'cpu'").replace("=50", "=2")
        exec(text, names)
        loaded.assert_called_once()
        shown = [name for name, *_ in pyplot.mock_calls]
        assert shown == ["clf", "imshow", "title", "show"]
        assert pyplot.imshow.call_args.args[0].size == names["out"].images[0].size
        exec(lines("daam", 1, "py").replace("a cat'", "a cat', num_inference_steps=2"), names)
        assert names["exp"].prompt == "A dog and a cat"
        assert (tmp_path / "experiment-dir" / "cat.heat_map.png").is_file()


class TestAuthors:
    values = load_file(DATA / "vpulab_ovam.safetensors")

    def test_maps_and_masks(self, authors):
        assert off(thinned(authors["maps"]), self.values["maps"]) <= 2e-4  # of sums of 60; measured: 3.2e-5
        assert off(thinned(authors["large"], 32), self.values["large"]) <= 2e-4  # measured: 1.9e-5
        assert torch.equal(thinned(authors["mask"], 8), self.values["mask"])

    def test_published_tokens(self, authors, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        text = lines("vpulab/ovam", 1)
        stand_in = next(line for line in text.splitlines() if line.startswith("np.save"))
        np.save("cat_optimized_token.npy", self.values["token"].numpy())
        names = run(text.replace(stand_in, ""), dict(authors))
        rows = authors["count"] * authors["trace"].maps(names["tokens"], guidance="uncond").token_maps
        assert off(thinned(rows), self.values["token.maps"]) <= 2e-4  # measured: 2.7e-5
        assert torch.equal(names["mask"], self.values["token.mask"])


class TestAttentionMapDiffusers:
    values = load_file(DATA / "attention_map_diffusers.safetensors")

    def test_mean_over_layers_with_the_middle_one(self, sd):
        found = run(lines("attention-map-diffusers", 0), named(sd))
        assert off(thinned(found["maps"])[:24], self.values["sd.all"]) <= 1e-5  # measured: 1.4e-6
        assert off(thinned(found["of_last"])[:24], self.values["sd.last"]) <= 1e-5  # measured: 2.8e-6

    def test_joint_attention(self, flux):
        found = run(lines("attention-map-diffusers", 0, "py"), named(flux), SMALL)
        assert off(thinned(found["maps"], 2)[::2], self.values["flux"]) <= 1e-5  # measured: 6e-8

    def test_joint_attention_of_sd3(self):
        text = lines("attention-map-diffusers", 0, "py").replace('blocks="transformer_blocks", ', "")
        found = run(text, named(steady.sd3()), SMALL)
        assert off(thinned(found["maps"], 2)[::5], self.values["sd3"]) <= 1e-5  # measured: 1.2e-7


class TestConceptAttention:
    values = load_file(DATA / "concept_attention.safetensors")

    def test_its_own_maps(self, concepts):
        assert concepts["maps"].words == tuple(CONCEPTS)
        assert (
            off(concepts["maps"].token_maps, self.values["zeros"]) <= 1e-4
        )  # measured: 6.3e-7 and, on another processor, 1.3e-5

    def test_with_the_prompt_s_pooled_vector(self, concepts, flux):
        names = run(lines("ConceptAttention", 1, "py"), dict(concepts))
        assert off(names["vectors"], self.values["vectors"]) <= 1e-5  # measured: 1.7e-6
        assert (
            off(names["maps"].token_maps, self.values["prompt"]) <= 1e-4
        )  # measured: 1.0e-6 and, on another processor, 2.6e-5
        same = concept_maps(concepts["traces"][0], flux, CONCEPTS, pooled="prompt")
        assert torch.equal(same.token_maps, names["maps"].token_maps)

    @pytest.mark.user_error
    def test_what_it_can_t_do_is_told(self, concepts, flux, sd):
        seen = concepts["traces"][0]
        with pytest.raises(OptionError, match=r"concept maps of a StableDiffusionPipeline: expected FLUX"):
            concept_maps(seen, sd, CONCEPTS)
        with pytest.raises(OptionError, match="pooled='ones'"):
            concept_maps(seen, flux, CONCEPTS, pooled="ones")
        unknown = replace(seen, source=replace(seen.source, prompt=None))
        with pytest.raises(OptionError, match="run from embeddings"):
            concept_maps(unknown, flux, CONCEPTS)
