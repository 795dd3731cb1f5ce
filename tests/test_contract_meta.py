"""The contract test class must be able to fail: each realistic fault of a backbone fails by the check meant for it."""

from dataclasses import replace

import pytest
import torch

import tiny
from ovam.backbones import registry
from ovam.backbones.base import Observation
from ovam.backbones.clip_text import ClipTexts
from ovam.backbones.joint import JointStream
from ovam.backbones.pixart import PixArtBackbone
from ovam.backbones.sd3 import SD3Backbone
from ovam.backbones.sdxl import SDXLBackbone
from ovam.backbones.unet import UNetBackbone
from ovam.backbones.unet_blocks import unet_modules
from ovam.errors import UnsupportedPipelineError
from ovam.maps.attention import weight_sums
from ovam.testing import BackboneContract, ExplicitSoftmax, JointContract
from ovam.trace.replay import Replay
from ovam.trace.static_text import StaticText
from ovam.tracing.keep_queries import QueryRecorder
from ovam.tracing.session import Session
from ovam.tracing.stream_maps import MapRecorder
from ovam.tracing.watch import Watch


class Contract(BackboneContract):
    """Not collected, since its name does not begin with Test: its tests are called one by one."""

    def make_pipe(self):
        return tiny.sd1()

    def run_arguments(self):
        return {"prompt": "a dog on the grass", "num_inference_steps": 3, "height": 32, "width": 32}


def seeing(change):
    """A backbone that hands on changed queries (batch, head, pixel, head_dim)."""

    class Changed(UNetBackbone):
        def watch(self, names, report):
            return super().watch(names, lambda name, seen: report(name, Observation(change(seen.query))))

    return Changed


def channels_split_the_wrong_way(query):
    heads, head_dim = query.shape[1], query.shape[3]
    return query.transpose(1, 2).flatten(2).unflatten(-1, (head_dim, heads)).permute(0, 3, 1, 2)


def images_of_a_pair_swapped(query):
    return query.unflatten(0, (2, 2)).flip(1).flatten(0, 1) if len(query) == 4 else query


def bfloat16_read_as_float16(tensor):
    return tensor.view(torch.float16) if tensor.dtype == torch.bfloat16 else tensor


def bfloat16_changed_in_place(query):
    return query.mul_(1.01) if query.dtype == torch.bfloat16 else query


class WrongScale(UNetBackbone):
    def blocks(self):
        return {name: replace(spec, scale=spec.scale * 1.05) for name, spec in super().blocks().items()}


class SwappedHalves(UNetBackbone):
    def evaluation(self, arguments, request):
        found = super().evaluation(arguments, request)
        if len(found.halves) == 1:
            return found
        return replace(found, halves={"cond": found.halves["uncond"], "uncond": found.halves["cond"]})


class UnconditionalLeftOut(UNetBackbone):
    """Takes the conditional rows of the batch for both halves."""

    def evaluation(self, arguments, request):
        found = super().evaluation(arguments, request)
        return replace(found, halves=dict.fromkeys(found.halves, found.halves["cond"]))


class TransposedGrids(UNetBackbone):
    def grids(self, latent):
        return {name: (width, height) for name, (height, width) in super().grids(latent).items()}


class GridsRoundedDown(UNetBackbone):
    def grids(self, latent):
        return super().grids((latent[0] // 4 * 4, latent[1] // 4 * 4))


class KeysByTheLayer(UNetBackbone):
    """Hands the vectors, which are float32, to the layer itself, whatever the layer's type."""

    def text_side(self, names, request=None):
        text, modules = super().text_side(names), unet_modules(self.denoiser)
        text.keys = lambda vectors, name, call: (
            modules[name].to_k(vectors).detach().unflatten(-1, (modules[name].heads, -1)).transpose(0, 1)
        )
        return text


class KeysReadAsFloat16(UNetBackbone):
    def text_side(self, names, request=None):
        text = super().text_side(names)
        text.projections = {name: bfloat16_read_as_float16(matrix) for name, matrix in text.projections.items()}
        return text


class LeakedHooks(UNetBackbone):
    def watch(self, names, report):
        super().watch(names, report)
        return []


WEIGHTS = r"half 'cond': weights \(step, head, pixel, token\): largest difference"
QUERIES = "the queries are not those that attention was computed with"
IMAGE = "image values differ: watching must not change a number"
HOOKS = r"the pipeline is not as before: .*attn2\.to_q: _forward_hooks"

# of each fault: the backbone, the test that is meant for it, and what the check that fails in that test tells
BROKEN_BACKBONES = {
    "scale": (WrongScale, "test_generation_prompt_reproduces_the_models_attention", WEIGHTS),
    "head order": (
        seeing(lambda query: query.flip(1)),
        "test_generation_prompt_reproduces_the_models_attention",
        WEIGHTS,
    ),
    "head split": (
        seeing(channels_split_the_wrong_way),
        "test_generation_prompt_reproduces_the_models_attention",
        WEIGHTS,
    ),
    "pixel order": (
        seeing(lambda query: query.flip(2)),
        "test_generation_prompt_reproduces_the_models_attention",
        WEIGHTS,
    ),
    "guidance half": (SwappedHalves, "test_generation_prompt_reproduces_the_models_attention", WEIGHTS),
    "unconditional half": (
        UnconditionalLeftOut,
        "test_halves_of_guidance",
        WEIGHTS.replace("cond", "uncond"),
    ),
    "image order": (
        seeing(images_of_a_pair_swapped),
        "test_batch_of_two_is_two_single_runs",
        "maps of image 0 in a batch of 2: largest difference",
    ),
    "width for height": (
        TransposedGrids,
        "test_sizes_that_are_not_square",
        r"has the grid \(16, 32\), not \(32, 16\)",
    ),
    "rounded queries": (
        seeing(lambda query: query.half().float()),
        "test_queries_are_those_the_kernel_receives",
        QUERIES,
    ),
    "changed in place": (seeing(lambda query: query.mul_(1.001)), "test_capture_does_not_touch_the_image", IMAGE),
    "bfloat16 queries": (seeing(bfloat16_read_as_float16), "test_a_pipeline_in_bfloat16", QUERIES),
    "bfloat16 keys": (
        KeysReadAsFloat16,
        "test_a_pipeline_in_bfloat16",
        "maps of a bfloat16 pipeline: largest difference",
    ),
    "bfloat16 in place": (seeing(bfloat16_changed_in_place), "test_a_pipeline_in_bfloat16", IMAGE),
    "hooks stay": (LeakedHooks, "test_pipeline_is_restored_after_a_run", f"after a capture, {HOOKS}"),
    "hooks stay after an error": (
        LeakedHooks,
        "test_pipeline_is_restored_after_an_error",
        f"after an error in _on_pictures, {HOOKS}",
    ),
}


class LastLayer(SDXLBackbone):
    def _reader(self, layer, request):
        return super()._reader("last", request)


class EncodersSwapped(SDXLBackbone):
    def _reader(self, layer, request):
        return ClipTexts(super()._reader(layer, request).parts[::-1])


def without(ending):
    """A text side that leaves out some of the weights on a key's way."""

    class Lacking(PixArtBackbone):
        def text_side(self, names, request=None):
            side = super().text_side(names)
            kept = {name: weight for name, weight in side.projections.items() if not name.endswith(ending)}
            return StaticText(kept, side.heads, side.reader)

    return Lacking


ON_OTHER_FAMILIES = {
    "text layer": (LastLayer, tiny.sdxl),
    "order of text encoders": (EncodersSwapped, tiny.sdxl),
    "bias of keys": (without("attn2.bias"), tiny.pixart_sigma),
    "bias of the caption": (without("linear_1.bias"), tiny.pixart_sigma),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("fault", ON_OTHER_FAMILIES)
def test_keys_of_another_way_fail(fault, monkeypatch):
    backbone, make = ON_OTHER_FAMILIES[fault]

    class OfFamily(Contract):
        def make_pipe(self):
            return make()

        def run_arguments(self):
            binning = {} if make is tiny.sdxl else {"use_resolution_binning": False, "clean_caption": False}
            return {**super().run_arguments(), **binning}

    monkeypatch.setattr(registry, "BACKBONES", (backbone,))
    with pytest.raises(AssertionError, match=r"a key differs by"):
        OfFamily().test_keys_of_the_prompt_are_those_the_kernel_receives()


@pytest.mark.parametrize("fault", BROKEN_BACKBONES)
def test_a_broken_backbone_fails(fault, monkeypatch):
    backbone, test, message = BROKEN_BACKBONES[fault]
    monkeypatch.setattr(registry, "BACKBONES", (backbone,))
    assert_contract_fails(test, message)


def assert_contract_fails(test, message, error=AssertionError):
    """The test fails, and by the check whose message matches `message`, not by another that is in its way."""
    with pytest.raises(error, match=message):
        getattr(Contract(), test)()


def test_grids_of_another_size_fail(monkeypatch):
    monkeypatch.setattr(registry, "BACKBONES", (GridsRoundedDown,))
    assert_contract_fails("test_grids_that_do_not_halve_evenly", r"attends from 323 pixels", UnsupportedPipelineError)


def test_vectors_of_another_type_than_the_layers_fail(monkeypatch):
    monkeypatch.setattr(registry, "BACKBONES", (KeysByTheLayer,))
    assert_contract_fails("test_a_pipeline_in_bfloat16", "to have the same dtype", RuntimeError)


def test_steps_in_another_order_fail(monkeypatch):
    observe = QueryRecorder.observe

    def backwards(self, place, parts):
        observe(self, replace(place, kept_index=self.shape.calls - 1 - place.kept_index), parts)

    monkeypatch.setattr(QueryRecorder, "observe", backwards)
    assert_contract_fails("test_generation_prompt_reproduces_the_models_attention", WEIGHTS)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.float16, "float16 queries are not the float32 ones, rounded once"),
        (torch.int8, "a query in eight bits is off by"),
    ],
)
def test_queries_rounded_twice_fail(monkeypatch, dtype, message):
    observe = QueryRecorder.observe

    def rounded(self, place, parts):
        twice = {part: tensor.bfloat16() for part, tensor in parts.items() if isinstance(tensor, torch.Tensor)}
        observe(self, place, twice if self.storage.dtype == dtype else parts)

    monkeypatch.setattr(QueryRecorder, "observe", rounded)
    assert_contract_fails("test_narrow_storage_stays_in_its_noise_floor", message)


def test_a_stream_that_counts_a_call_twice_fails(monkeypatch):
    observe = MapRecorder.observe

    def first_call_twice(self, place, parts):
        for _ in range(2 if place.kept_index == 0 else 1):
            observe(self, place, parts)

    monkeypatch.setattr(MapRecorder, "observe", first_call_twice)
    assert_contract_fails(
        "test_stream_equals_the_maps_of_a_capture", "streamed maps of the 'cond' half: largest difference"
    )


def test_a_broken_run_that_is_not_forgotten_fails(monkeypatch):
    monkeypatch.setattr(Session, "_on_start", lambda self, arguments, result: None)
    monkeypatch.setattr(Session, "_on_prompt", lambda self, arguments, result: None)
    assert_contract_fails(
        "test_a_broken_run_does_not_reach_the_next",
        "2 traces after an error in _on_start and one complete run, expected 1",
    )


def test_a_trace_of_a_broken_run_fails(monkeypatch):
    def close(self):
        if self.run.calls:
            self.finish(self.no_pictures(), self.size())

    monkeypatch.setattr(Watch, "close", close)
    assert_contract_fails("test_a_broken_run_gives_no_trace", "gave a trace with incomplete queries")


def test_an_invented_unconditional_half_fails(monkeypatch):
    monkeypatch.setattr("ovam.tracing.watch.check_halves", lambda *given: None)
    assert_contract_fails(
        "test_without_guidance_there_is_no_unconditional_half", "a run without guidance gave unconditional queries"
    )


def test_a_recording_of_other_attention_fails(monkeypatch):
    attend = ExplicitSoftmax.__call__

    def flatter(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return attend(self, attn, hidden_states, 0.9 * encoder_hidden_states, attention_mask)

    monkeypatch.setattr(ExplicitSoftmax, "__call__", flatter)
    assert_contract_fails("test_explicit_attention_is_the_models_own", "image of the recording run: largest difference")


class Joint(JointContract):
    """Not collected either."""

    def make_pipe(self):
        return tiny.sd3()

    def run_arguments(self):
        size = {"height": 32, "width": 32, "max_sequence_length": 16}
        return {"prompt": "a dog on the grass", "num_inference_steps": 3, **size}


# of each fault: what is changed of what a replay needs, the test that is meant for it, and what its check tells
OWN_KEYS = "test_keys_of_the_prompt_are_those_the_kernel_receives"
BROKEN_REPLAYS = {
    "image keys": (
        lambda seen: {**seen, "key": seen["key"].flip(2)},
        "test_image_keys_are_those_the_kernel_receives",
        "image keys are not those of the kernel",
    ),
    "image values": (lambda seen: {**seen, "value": seen["value"].flip(1)}, OWN_KEYS, "a key differs by"),
    "another time": (lambda seen: {**seen, "conditioning": 0.9 * seen["conditioning"]}, OWN_KEYS, "a key differs by"),
}


@pytest.mark.parametrize("fault", BROKEN_REPLAYS)
def test_a_broken_replay_fails(fault, monkeypatch):
    change, test, message = BROKEN_REPLAYS[fault]

    class Changed(SD3Backbone):
        def watch(self, names, report):
            return super().watch(names, lambda name, seen: report(name, Observation(seen.query, change(seen.replay))))

    monkeypatch.setattr(registry, "BACKBONES", (Changed,))
    with pytest.raises(AssertionError, match=message):
        getattr(Joint(), test)()


def test_an_image_that_takes_no_share_fails(monkeypatch):
    def over_text_alone(*args, image_key=None, **options):
        return weight_sums(*args, **options)

    monkeypatch.setattr("ovam.maps.compute.weight_sums", over_text_alone)
    with pytest.raises(AssertionError, match=WEIGHTS):
        Joint().test_generation_prompt_reproduces_the_models_attention()


def test_halves_with_each_others_image_fail(monkeypatch):
    """What the unconditional half saw of the image does not answer for the conditional one."""
    image = Replay.image
    other = {"cond": "uncond", "uncond": "cond"}
    monkeypatch.setattr(Replay, "image", lambda self, block, call, half: image(self, block, call, other[half]))
    with pytest.raises(AssertionError, match=WEIGHTS):
        Joint().test_generation_prompt_reproduces_the_models_attention()


def entered_without_gradients(stream, block, image, enter=JointStream.enter):
    """Only the calibration is fitted."""
    stream.differentiable = False
    return enter(stream, block, image)


def entered_forgetting_the_way(stream, block, image, enter=JointStream.enter):
    """Gradients reach the keys of the first block alone."""
    rows = enter(stream, block, image)
    stream.hidden = None if stream.hidden is None else stream.hidden.detach()
    return rows


@pytest.mark.parametrize("entered", [entered_without_gradients, entered_forgetting_the_way])
def test_gradients_that_are_cut_on_the_replay_fail(entered, monkeypatch):
    monkeypatch.setattr(JointStream, "enter", entered)
    with pytest.raises(AssertionError, match="the mask of a planted token was found with an IoU of"):
        Joint().test_a_planted_token_is_recovered()


def test_a_pipeline_with_even_attention_is_refused():
    class Lax(Contract):
        def make_pipe(self):
            return tiny.sharpen(tiny.sd1(), factor=1 / 12)

    with pytest.raises(AssertionError, match="median largest attention weight"):
        Lax().test_generation_prompt_reproduces_the_models_attention()


def test_a_batch_is_not_measured_against_itself():
    """Two prompts give maps that differ by far more than the tolerance between a batch and single runs."""
    contract, pipe = Contract(), tiny.sd1()
    prompts = [contract.run_arguments()["prompt"], contract.other_prompt]
    pair = contract._captured(pipe, contract._names(pipe), prompt=prompts, latents=contract._latents(pipe, images=2))
    first, second = (trace.maps("a dog").token_maps for trace in pair)
    assert torch.dist(first, second, p=float("inf")) > 10 * contract.batch_tolerance
