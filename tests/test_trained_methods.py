"""Grounded Diffusion and DatasetDM: their modules, what they are told, and the weights that they refuse."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

import ovam
import reference
import tiny
from ovam.backbones.registry import backbone_of
from ovam.errors import (
    NothingCapturedError,
    OptionError,
    SpaceMismatchError,
    UnsupportedPipelineError,
    WeightsError,
)
from ovam.methods.class_vectors import padded_mean, word_rows, word_vector
from ovam.methods.datasetdm import DatasetDM, best_mask, with_attention
from ovam.methods.datasetdm_decoder import THING, PerceptionDecoder, attention_heads, level_of, sine_positions
from ovam.methods.fusion import Fusion, Residual
from ovam.methods.grounded import Grounded
from ovam.methods.grounded_module import GroundingModule, grounded_layers
from ovam.methods.trained_file import Trained, load_weights, module_for, save_weights
from ovam.methods.unet_read import Outline, counted, features_of, outline_of
from ovam.methods.widths import scaled
from ovam.testing import MethodContract
from ovam.tokens.token_set import BACKGROUND, Fit, TokenGroup, TokenSet
from ovam.trace.text_side import Space

SIZE = {"height": 32, "width": 32}
KEPT = {"features": True, "blocks": ["down_blocks", "mid_block", "up_blocks"], "guidance": "both"}
METHODS = {"grounded": Grounded, "datasetdm": DatasetDM}


def traced(pipe, **changes):
    options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), **SIZE}
    with ovam.capture(pipe, **{**KEPT, **changes}) as traces:
        pipe("a dog on the grass", **options)
    return traces[0]


def random_weights(method, trace, path, halves=("cond", "uncond"), seed=0):
    """Weights of a module that was never trained, with masks of both signs."""
    torch.manual_seed(seed)
    tokens = len(trace.text.embed("thing", padded=True).vectors)
    outline = outline_of(trace)
    module = module_for(method, outline, halves, tokens)
    save_weights(Trained(method, outline, halves, tokens, module.state_dict(), {"seed": seed}), path)
    return path


def token_set(text, vectors):
    """A set whose classes have these vectors, without calibrations."""
    rows, stacked = (BACKGROUND, *vectors), torch.stack([torch.zeros(text.space.width), *vectors.values()])
    return TokenSet((TokenGroup(rows, stacked, {}, Fit("")),), text.space)


@pytest.fixture(scope="module")
def pipe():
    return tiny.sd1()


@pytest.fixture(scope="module")
def trace(pipe):
    return traced(pipe)


@pytest.fixture(scope="module", params=["grounded", "datasetdm"])
def method(request, trace, tmp_path_factory):
    path = random_weights(request.param, trace, tmp_path_factory.mktemp("weights") / "w.safetensors")
    return METHODS[request.param](weights=path)


def stable_diffusion_1():
    """Outline of Stable Diffusion 1, of which no weights are needed."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=768,
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=8,
        )
    pipe = tiny.sd1()
    pipe.unet = unet
    backbone = backbone_of(pipe)
    grids, layers = backbone.grids((64, 64)), backbone.feature_layers()
    sizes = sorted({grids[name] for name in layers}, reverse=True)
    heads = {name: spec.heads for name, spec in backbone.blocks().items()}
    channels = {name: spec.head_dim for name, spec in layers.items()}
    levels = {name: sizes.index(grids[name]) for name in layers}
    return Outline(channels, levels, heads, {}, Space("CLIP", "last", 768))


class TestModules:
    """Shapes are those of the released code, told in arXiv:2301.05221 and arXiv:2308.06160 and their repositories."""

    def test_grounded_reads_the_published_channels(self):
        outline = stable_diffusion_1()
        assert counted(grounded_layers(outline), outline, 2) == [5120, 8320, 14080, 15360]
        with torch.device("meta"):
            module = GroundingModule(outline, 2)
        assert module.fusion.widths == [16, 48, 112, 240]
        assert module.to_key.weight.shape == (512, 3840)
        assert module.to_query.weight.shape == (512, 768)
        assert [layer.wide.out_features for layer in module.layers] == [2048] * 3

    def test_datasetdm_reads_the_published_channels(self):
        outline = stable_diffusion_1()
        assert counted(list(outline.channels), outline, 2) == [5120, 9600, 16640, 17920]
        assert attention_heads(outline) == {0: 40, 1: 40, 2: 40, 3: 8}
        with torch.device("meta"):
            module = PerceptionDecoder(outline, 2, 77)
        into = [narrow.in_channels for narrow in module.fusion.narrow]
        assert into == [5120 + 40 * 77, 9600 + 40 * 77, 16640 + 40 * 77, 17920 + 8 * 77]
        assert len(module.layers) == 10
        assert module.content.weight.shape == (20, 256)
        assert module.to_content.weight.shape == (256, 256 + 768)
        sides = zip(into, (64, 32, 16, 8), strict=True)
        *coarse, _ = module.fusion([torch.zeros(1, count, side, side, device="meta") for count, side in sides])
        grids = [grid for _, _, grid in module._memory(coarse, (64, 64))]
        assert grids == [(20, 20), (40, 40), (80, 80)]

    def test_widths_of_a_small_unet_are_in_proportion(self):
        assert [scaled(width, 320) for width in (16, 128, 512)] == [16, 128, 512]
        assert [scaled(width, 64) for width in (16, 128, 512, 256)] == [8, 24, 104, 48]
        assert scaled(512, 8) == 16
        assert scaled(512, 640) == 512

    def test_the_residual_block_is_that_of_the_released_code(self):
        torch.manual_seed(0)
        block, x = Residual(4, 4).eval(), torch.randn(1, 4, 5, 6)
        with torch.no_grad():
            rectified = (x / (1 + 1e-4) ** 0.5).relu()  # running mean 0 and variance 1
            inner = (
                torch.conv2d(rectified, block.conv_1.weight, block.conv_1.bias, padding=1) / (1 + 1e-4) ** 0.5
            ).relu()
            expected = torch.conv2d(inner, block.conv_2.weight, block.conv_2.bias, padding=1) + rectified
            # measured 1.2e-7
            torch.testing.assert_close(block(x), expected, rtol=0, atol=2e-6)
            norms = [torch.linalg.matrix_norm(conv.weight.flatten(1), 2) for conv in (block.conv_1, block.conv_2)]
        assert all(0.8 < float(norm) < 1.25 for norm in norms)  # spectral norms, by one power iteration

    def test_levels_may_be_narrowed_before_they_are_enlarged(self):
        torch.manual_seed(0)
        fusion, levels = (
            Fusion([3, 5, 4], [4, 2, 2]).eval(),
            [torch.randn(1, c, s, s) for c, s in ((3, 8), (5, 4), (4, 2))],
        )
        with torch.no_grad():
            found = fusion(levels)
            middle, coarse = (
                fusion.narrow[i](F.interpolate(levels[i], size=(side, side), mode="bilinear"))
                for i, side in ((1, 8), (2, 4))
            )
            joined = torch.cat([F.interpolate(coarse, size=(8, 8), mode="bilinear"), middle], dim=1)
            expected = fusion.mix[1](torch.cat([fusion.mix[0](joined), fusion.narrow[0](levels[0])], dim=1))
        assert [fused.shape[1] for fused in found] == fusion.widths == [2, 4, 8]
        # measured 2.4e-7
        torch.testing.assert_close(found[-1], expected, rtol=0, atol=5e-6)

    def test_sine_positions(self):
        found = sine_positions((3, 5), 16)
        for row, column in ((0, 0), (2, 1), (1, 4)):
            expected = torch.tensor(reference.sine_position(row, column, (3, 5), 16))
            # measured 4e-7
            torch.testing.assert_close(found[row * 5 + column], expected, rtol=0, atol=5e-6)

    def test_attention_channels_follow_the_features(self, trace):
        outline, prompt = outline_of(trace), trace.text.embed("a photo of a dog", padded=True)
        features = features_of(trace, list(outline.channels), outline.levels, ("cond", "uncond"))
        found = with_attention(features, trace, outline, prompt)
        before = [level.shape[1] for level in features]
        for name, block in trace.blocks.items():
            level, last = level_of(name, outline), block.query["cond"][:, -1].double().numpy()
            key = trace.text.keys(prompt.vectors, name, 0).double().numpy()
            expected = reference.prompt_channels(last, key, block.scale)
            mine = found[level][0, before[level] : before[level] + len(expected)].flatten(1)
            before[level] += len(expected)
            # measured 3e-7
            torch.testing.assert_close(mine.double(), torch.from_numpy(expected), rtol=0, atol=5e-6)
        assert before == [level.shape[1] for level in found]

    def test_both_halves_are_channels_of_a_layer(self, trace):
        outline = outline_of(trace)
        (finest, *_) = features_of(trace, ["conv_in"], outline.levels, ("cond", "uncond"))
        values = trace.features["conv_in"].values
        assert torch.equal(finest[0], torch.cat([values["uncond"], values["cond"]]).float())

    def test_the_best_query_gives_the_mask(self):
        scores = torch.zeros(1, 4, 3)
        scores[0, :, THING] = torch.tensor([3.0, 2.9, 0.0, 2.0])
        masks = torch.full((1, 4, 2, 2), -1.0)
        masks[0, 0, 0, 0], masks[0, 1, 0, 0], masks[0, 2] = 0.1, 9.0, 99.0
        assert torch.equal(best_mask(scores, masks), masks[0, 1])  # the second has nearly the score, and is surer


class TestSegment:
    def test_an_ordinary_result(self, method, trace):
        result = method.segment(trace, ["dog", "cat|person"])
        assert result.words == ("dog", "cat|person")
        assert result.size == (32, 32)
        assert torch.equal(result.labels > 0, (result.scores > 0.5).any(0))
        assert result.presence == trace.segment(["dog", "cat|person"]).presence
        assert 0 <= result.scores.min() < result.scores.max() <= 1

    def test_words_do_not_change_each_other(self, method, trace):
        together, alone = method.segment(trace, ["dog", "cat"]), method.segment(trace, ["cat"])
        assert torch.equal(together.scores[1], alone.scores[0])
        assert not torch.equal(together.scores[0], together.scores[1])

    def test_synonyms_take_the_greatest(self, method, trace):
        either, each = method.segment(trace, ["dog|cat"]).maps, method.segment(trace, ["dog", "cat"]).maps
        assert torch.equal(either.token_maps[0], each.token_maps.amax(0))  # at the module's grid

    def test_a_trace_from_a_file_gives_the_same(self, method, pipe, trace, tmp_path):
        trace.save(tmp_path / "run.safetensors")
        loaded = ovam.Trace.load(tmp_path / "run.safetensors", pipe)
        assert torch.equal(method.segment(loaded, "dog").scores, method.segment(trace, "dog").scores)

    def test_a_threshold_moves_the_border(self, method, trace):
        plain, strict = method.segment(trace, "dog").scores, replace(method, threshold=0.7).segment(trace, "dog").scores
        assert torch.equal(strict > 0.5, plain > 0.7)

    def test_a_token_that_is_the_word_s_own_vector_gives_its_mask(self, method, trace):
        text = trace.text
        own = (
            word_vector(text, "a photograph of a {}", "dog") if method.name == "grounded" else padded_mean(text, "dog")
        )
        found = method.segment(trace, token_set(text, {"dog": own, "cat": own.flip(0)}))
        assert found.words == ("dog", "cat")
        expected = method.segment(trace, ["dog", "cat"]).scores
        assert torch.equal(found.scores[0], expected[0])
        assert not torch.equal(found.scores[1], expected[1])

    def test_the_class_vector_is_the_mean_of_the_word_s_rows(self, trace):
        embedded = trace.text.embed("a photograph of a hot dogma")
        first = 5  # after <start>, a, photograph, of, a
        expected = embedded.vectors[first : len(embedded.prompt.tokens) - 1].mean(0)
        torch.testing.assert_close(word_vector(trace.text, "a photograph of a {}", "hot dogma"), expected)

    def test_a_token_in_the_attention_of_datasetdm(self, trace, tmp_path):
        weights = random_weights("datasetdm", trace, tmp_path / "w.safetensors")
        embedded, (row,) = word_rows(trace.text, "a photo of a {}", "dog", padded=True)
        same, other = (token_set(trace.text, {"dog": vector}) for vector in (embedded.vectors[row], torch.ones(32)))
        by_word = DatasetDM(weights=weights).segment(trace, "dog").scores
        entry = {kind: DatasetDM(weights=weights, token_entry=kind) for kind in ("text", "attention", "both")}
        assert torch.equal(entry["attention"].segment(trace, same).scores, by_word)
        found = [entry[kind].segment(trace, other).scores for kind in entry]
        assert all(not torch.equal(one, by_word) for one in found)
        assert not torch.equal(found[0], found[2])

    def test_requires_is_what_the_weights_need(self, method, pipe, trace, tmp_path):
        kept = method.requires
        assert kept["features"] is True
        assert kept["guidance"] == "both"
        assert type(method)().requires == kept  # without weights, as published
        one = random_weights(method.name, trace, tmp_path / "w.safetensors", halves=("cond",))
        fewer = replace(method, weights=one)
        assert "guidance" not in fewer.requires
        picture = torch.rand(32, 32, 3).numpy()
        encoded = ovam.encode(pipe, picture, **fewer.requires_encoded)
        assert fewer.segment(encoded, "dog").size == (32, 32)
        assert fewer.segment(trace, "dog").size == (32, 32)  # reads the one half of the two

    @pytest.mark.parametrize("make", [tiny.sd2, tiny.sdxl])
    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    def test_other_unets(self, make, tmp_path):
        other = traced(make(), blocks=None)
        path = random_weights("grounded", other, tmp_path / "w.safetensors")
        assert Grounded(weights=path).segment(other, ["dog"]).size == (32, 32)


class TestErrors:
    def test_without_weights(self, method, trace):
        with pytest.raises(
            WeightsError, match=rf"no weights are shipped.*lab.methods train {method.name} --output FILE"
        ):
            type(method)().segment(trace, "dog")

    def test_a_file_that_is_not_there_or_of_another_kind(self, method, trace, tmp_path):
        with pytest.raises(WeightsError, match="is not a file: expected weights of a trained method"):
            replace(method, weights=tmp_path / "nothing").segment(trace, "dog")
        trace.save(tmp_path / "run.safetensors")
        with pytest.raises(WeightsError, match="not weights of a trained method, of format 'ovam-trace'"):
            replace(method, weights=tmp_path / "run.safetensors").segment(trace, "dog")

    def test_weights_of_another_method(self, method, trace, tmp_path):
        (other,) = {"grounded", "datasetdm"} - {method.name}
        path = random_weights(other, trace, tmp_path / "w.safetensors")
        with pytest.raises(WeightsError, match=f"of another method, {other!r}: expected those of {method.name!r}"):
            replace(method, weights=path).segment(trace, "dog")

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: tiny.sd1(seed=1), "its key projections are others; its text encoder is"),
            (tiny.sd2, "its layers have other names, widths or grids"),
        ],
    )
    def test_weights_of_another_unet(self, method, make, message):
        with pytest.raises(WeightsError, match=f"belong to another UNet than the trace: .*{message}"):
            method.segment(traced(make()), "dog")

    def test_a_trace_without_features(self, method, pipe):
        with pytest.raises(NothingCapturedError, match=r"capture with ovam.capture\(pipe, features=True\)"):
            method.segment(traced(pipe, features=False), "dog")

    def test_a_trace_without_a_half(self, method, pipe):
        with pytest.raises(NothingCapturedError, match=r"lacks 'uncond': .*guidance='both'"):
            method.segment(traced(pipe, guidance="cond"), "dog")

    def test_a_trace_without_a_block(self, trace, pipe, tmp_path):
        path = random_weights("datasetdm", trace, tmp_path / "w.safetensors")
        with pytest.raises(
            NothingCapturedError, match=r"lacks 'mid_block.*blocks=\['down_blocks', 'mid_block', 'up_blo"
        ):
            DatasetDM(weights=path).segment(traced(pipe, blocks=None), "dog")

    @pytest.mark.parametrize("make", [tiny.pixart_sigma, tiny.sd3])
    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    def test_a_family_without_a_unet(self, method, make):
        other = make()
        with ovam.capture(other) as traces:
            more = {"use_resolution_binning": False} if make is tiny.pixart_sigma else {}
            other("a dog", num_inference_steps=1, **SIZE, **more)
        with pytest.raises(
            UnsupportedPipelineError, match=f"is of a {type(other).__name__}, whose denoiser is no UNet"
        ):
            method.segment(traces[0], "dog")

    def test_tokens_of_another_text_encoder(self, method, trace):
        tokens = token_set(trace.text, {"dog": torch.ones(32)})
        other = replace(tokens, space=replace(tokens.space, encoder="another"))
        with pytest.raises(SpaceMismatchError, match="another"):
            method.segment(trace, other)

    @pytest.mark.user_error
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"threshold": 0.0}, "threshold=0.0"),
            ({"token_threshold": 1.0}, "token_threshold=1.0"),
            ({"template": "a {} here"}, "expected a text that ends with the word's place"),
        ],
    )
    def test_values_that_are_not_allowed(self, method, options, message):
        with pytest.raises(OptionError, match=message):
            type(method)(**options)

    @pytest.mark.user_error
    def test_a_token_entry_that_there_is_not(self):
        with pytest.raises(OptionError, match="token_entry='image': expected one of"):
            DatasetDM(token_entry="image")


class TestFile:
    def test_saved_and_loaded(self, trace, tmp_path):
        path = random_weights("grounded", trace, tmp_path / "w.safetensors")
        trained = load_weights(path)
        assert (trained.method, trained.halves, trained.training) == ("grounded", ("cond", "uncond"), {"seed": 0})
        assert trained.outline == outline_of(trace)
        assert list(trained.outline.heads) == list(trace.blocks)
        save_weights(trained, tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()

    def test_a_file_that_was_written_anew_is_read_anew(self, trace, tmp_path):
        path = tmp_path / "w.safetensors"
        first = Grounded(weights=random_weights("grounded", trace, path)).segment(trace, "dog").scores
        second = Grounded(weights=random_weights("grounded", trace, path, seed=1)).segment(trace, "dog").scores
        assert not torch.equal(first, second)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda header, tensors: header["unet"].pop("layers"), "unet.layers is missing"),
            (lambda header, tensors: header["unet"]["layers"].pop(0), "unet.layers lacks 'conv_in'"),
            (lambda header, tensors: header.update(method="sam"), "method is 'sam'"),
            (lambda header, tensors: tensors.pop("to_query.weight"), "holds other tensors than its header says"),
            (lambda header, tensors: tensors["to_query.weight"].fill_(float("nan")), "contains NaN or infinity"),
        ],
    )
    def test_damage_is_named(self, trace, tmp_path, change, message):
        import json

        path = random_weights("grounded", trace, tmp_path / "w.safetensors")
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["ovam"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        change(header, tensors)
        save_file(tensors, path, {"ovam": json.dumps(header)})
        with pytest.raises(WeightsError, match=message):
            Grounded(weights=path).segment(trace, "dog")


@functools.cache
def weights_for_mini(method):
    """Random weights for the embedded model: what the contract asks of a method holds for any."""
    pipe = ovam.load("mini")
    pipe.set_progress_bar_config(disable=True)
    folder = tempfile.TemporaryDirectory()
    trace = traced(pipe, guidance="cond")
    return random_weights(method, trace, Path(folder.name) / "w.safetensors", halves=("cond",)), folder


class TestGroundedContract(MethodContract):
    def make_method(self):
        return Grounded(weights=weights_for_mini("grounded")[0])


class TestDatasetDMContract(MethodContract):
    def make_method(self):
        return DatasetDM(weights=weights_for_mini("datasetdm")[0])
