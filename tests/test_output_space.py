"""Maps in the output space of joint attention: against plain loops, late and streamed, kept and refused."""

import itertools
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import ovam
import reference
import tiny
from ovam import errors
from ovam.backbones.base import Observation
from ovam.backbones.registry import backbone_of
from ovam.maps.output_space import output_shares, word_outputs
from ovam.prompt import Span

PROMPT = "a dog on the grass"
RUN = {"num_inference_steps": 2, "height": 16, "width": 24, "max_sequence_length": 8}
FAMILIES = {"sd3": tiny.sd3, "sd35": lambda: tiny.sd3(newer=True), "flux": tiny.flux}
WORDS = ["frog", "red boat", "sky"]  # of five tokens and more, of two, and of one


def generate(pipe, **changes):
    return pipe(PROMPT, **{**RUN, "generator": torch.Generator().manual_seed(0), "output_type": "np", **changes})


def captured(pipe, **options):
    with ovam.capture(pipe, **{"dtype": torch.float32, "outputs": True, **options}) as traces:
        generate(pipe)
    return traces[0]


@contextmanager
def kernel_arguments(pipe, names):
    """Query, key and value (1, head, position, head_dim) of each call of each block's attention."""
    received, running, kernel = {name: [] for name in names}, [], F.scaled_dot_product_attention

    def spy(query, key, value, *args, **options):
        for name in running[-1:]:
            received[name].append((query, key, value))
        return kernel(query, key, value, *args, **options)

    handles = []
    for name in names:
        block = backbone_of(pipe).denoiser.get_submodule(name)
        handles.append(block.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        handles.append(block.register_forward_hook(lambda *_: running.clear()))
    with patch.object(F, "scaled_dot_product_attention", spy):
        yield received
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="module", params=FAMILIES)
def pipe(request):
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def trace(pipe):
    return captured(pipe)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("keep_step", [False, True])
def test_shares_equal_the_definition(dtype, keep_step, monkeypatch):
    """Against float64 in plain loops, also cut into pieces."""
    random = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 7, 4, generator=random).to(dtype)
    text = torch.randn(2, 6, 4, generator=random)
    spans = (Span("a", (1,)), Span("hot dog", (0, 3, 4)), Span("sky", (2, 5)))
    texts = np.stack([text.double().numpy()] * 3)
    expected = reference.output_shares(image.double().numpy(), texts, [span.tokens for span in spans])
    expected = expected if keep_step else expected.sum(0, keepdims=True)
    for scores in (2**24, 10):
        monkeypatch.setattr("ovam.maps.output_space._NUMBERS", scores)
        found = output_shares(image, word_outputs(text, spans), keep_step=keep_step)
        assert np.abs(found[0].numpy() - expected).max() <= 1e-5  # measured: 2e-7


def test_outputs_are_those_of_attention(pipe):
    """Of the pixels as they were kept, and of the prompt's tokens as they are replayed, in the last block too."""
    backbone = backbone_of(pipe)
    names = list(backbone.blocks())
    with kernel_arguments(pipe, names) as received, ovam.capture(pipe, dtype=torch.float32, outputs=True) as traces:
        generate(pipe, guidance_scale=1.0)
    trace, call, head = traces[0], 1, 1
    text = trace.text.embed(PROMPT, padded=True)
    replayed = dict(trace.replay.keys_and_outputs(trace.text.stream(text.vectors), names, call, "cond"))
    for name in names:
        query, key, value = (part[0, head].double().numpy() for part in received[name][call])
        pixels, tokens = trace.blocks[name].output["cond"].shape[2], len(text.vectors)
        text_first = trace.source.pipeline == "FluxPipeline"
        image_at, text_at = (tokens, 0) if text_first else (0, pixels)
        for position in (0, 5, pixels - 1):
            expected = reference.attention_output(query[image_at + position], key, value, query.shape[-1] ** -0.5)
            found = trace.blocks[name].output["cond"][head, call, position]
            assert np.abs(found.numpy() - expected).max() <= 1e-5, name  # measured: 2.3e-6
        for position in (0, 2, tokens - 1):
            expected = reference.attention_output(query[text_at + position], key, value, query.shape[-1] ** -0.5)
            found = replayed[name].output[head, position]
            assert np.abs(found.numpy() - expected).max() <= 1e-5, name  # measured: 2.3e-6


def test_maps_equal_the_definition(trace):
    """Each entry read alone, a word the mean of its tokens, one mean over blocks and steps."""
    prompts = [trace.text.embed(word, as_phrase=True) for word in WORDS]
    total = 0
    for name, block in trace.blocks.items():
        texts = []
        for call in trace.calls:
            rows = [
                dict(trace.replay.keys_and_outputs(trace.text.stream(p.vectors), [name], call.index, "cond"))[name]
                for p in prompts
            ]
            own = [p.taken(r.output)[:, list(p.prompt.spans[0].tokens)] for p, r in zip(prompts, rows, strict=True)]
            texts.append(torch.cat(own, dim=1).double().numpy())
        lengths = np.cumsum([0] + [len(p.prompt.spans[0].tokens) for p in prompts])
        tokens = [range(*pair) for pair in itertools.pairwise(lengths)]
        total = total + reference.output_shares(block.output["cond"].double().numpy(), np.stack(texts), tokens)
    expected = (total / len(trace.blocks)).mean(0)
    maps = trace.maps(WORDS, strategy="output")
    assert maps.words == tuple(WORDS)
    assert np.abs(maps.stacked().flatten(1).numpy() - expected).max() <= 1e-5  # measured: 6e-8
    assert torch.allclose(maps.stacked().sum(0), torch.ones(maps.grid), atol=1e-5)
    assert maps.stacked().std(dim=(1, 2)).min() > 1e-4  # no word's map is flat


def test_words_of_one_text_share_the_pixels(trace):
    maps = trace.maps("a dog on the sand", strategy="output", keep=("block", "step"))
    assert maps.token_maps.shape[:3] == (len(trace.blocks), len(trace.calls), 5)
    assert torch.allclose(maps.stacked().sum(-3), torch.ones(maps.stacked()[..., 0, :, :].shape), atol=1e-5)
    mean = trace.maps("a dog on the sand", strategy="output")["sand"]
    assert torch.allclose(maps["sand"].mean((0, 1)), mean, atol=1e-6)
    with pytest.raises(errors.UnknownWordError):
        mean = trace.maps("a dog", strategy="output")["<end>"]


def test_a_stream_gives_the_same_maps(pipe, trace):
    with ovam.stream(pipe, WORDS, strategy="output") as maps:
        generate(pipe)
    expected = trace.maps(WORDS, strategy="output")
    assert (maps[0].tokens, maps[0].spans) == (expected.tokens, expected.spans)
    assert torch.allclose(maps[0].token_maps, expected.token_maps, rtol=0, atol=1e-5)  # measured: 0


def test_images_and_queries_are_as_without(pipe, trace):
    plain = generate(pipe).images
    with ovam.capture(pipe, dtype=torch.float32, outputs=True) as traces:
        assert np.array_equal(generate(pipe).images, plain)
    without = captured(pipe, outputs=False)
    assert torch.equal(traces[0].maps("a boat").token_maps, without.maps("a boat").token_maps)
    assert traces[0].nbytes - without.nbytes == sum(block.query["cond"].nbytes for block in without.blocks.values())


def test_a_segmentation_by_output(trace):
    found = trace.segment(["dog"], against=["sky"], strategy="output")
    assert found.labels.shape == trace.size


def test_parts_files_and_plans(pipe, trace, tmp_path):
    names = list(trace.blocks)
    part = trace.select(blocks=names[1], steps=[1])
    found, expected = (
        each.maps(WORDS, strategy="output", **options).token_maps
        for each, options in ((part, {}), (trace, {"blocks": names[1], "steps": [1]}))
    )
    assert torch.equal(found, expected)
    part.save(tmp_path / "run.safetensors")
    loaded = ovam.Trace.load(tmp_path / "run.safetensors", text=pipe)
    assert torch.equal(loaded.maps(WORDS, strategy="output").token_maps, expected)
    assert loaded.nbytes == part.nbytes
    planned = ovam.plan(pipe, num_inference_steps=2, height=16, width=24, dtype=torch.float32, outputs=True)
    assert planned.nbytes == trace.nbytes
    with pytest.raises(errors.CaptureTooLargeError, match="attention outputs of"):
        captured(pipe, limit_gib=(trace.nbytes - 1) / 2**30)


def test_what_can_not_be_asked(pipe, trace, sd1):
    cases = [
        (lambda: trace.maps(["dog"], strategy="output"), "'dog' alone, which would get 1 at every pixel"),
        (lambda: ovam.stream(pipe, ["dog"], strategy="output").__enter__(), "at least two words"),
        (lambda: trace.maps("a dog", strategy="output", softmax_over="joint"), "softmax_over='joint' with"),
        (lambda: trace.maps("a dog", strategy="output", keep=("head",)), "keep='head' with"),
        (lambda: ovam.stream(sd1, "a dog", strategy="output").__enter__(), "words have no outputs"),
        (lambda: ovam.capture(sd1, outputs=True).__enter__(), "words have no attention outputs"),
        (lambda: ovam.plan(sd1, outputs=True), "words have no attention outputs"),
    ]
    for action, message in cases:
        with pytest.raises(errors.OptionError, match=message):
            action()
    with pytest.raises(errors.NothingCapturedError, match="capture with outputs=True"):
        captured(pipe, outputs=False, steps=[0], blocks=list(trace.blocks)[:1]).maps("a dog", strategy="output")


def test_a_backbone_that_tells_no_outputs_is_refused(monkeypatch):
    monkeypatch.setattr(
        "ovam.backbones.joint_watch.Observation", lambda query, replay, output: Observation(query, replay)
    )
    with pytest.raises(
        errors.UnsupportedPipelineError, match=r"transformer_blocks\.0\.attn'.*reports no attention outputs"
    ):
        captured(tiny.flux())


@pytest.mark.user_error
def test_a_strategy_that_there_is_not(trace):
    with pytest.raises(errors.OptionError, match=r"strategy='best': expected one of \('attention', 'output'\)"):
        trace.maps("a dog", strategy="best")
