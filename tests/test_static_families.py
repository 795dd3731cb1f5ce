"""SDXL and PixArt beyond the contract: late words bit by bit, two prompts, masks, files, real images."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

import ovam
import tiny
from ovam.backbones.registry import backbone_of
from ovam.commands.generate import generate
from ovam.commands.info import describe_model
from ovam.errors import (
    AmbiguousWordError,
    NoTextEncoderError,
    PromptTooLongError,
    SpaceMismatchError,
    TraceFileError,
    UnknownWordError,
    UnsupportedPipelineError,
)
from ovam.testing.assertions import ExplicitSoftmax, spied_kernel
from ovam.trace import static_text

# the schedulers of these families copy tensors into arrays as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LATE = "A frog's boat, in the red sea"  # unknown words and signs fall into pieces
SIZE = {"num_inference_steps": 2, "height": 32, "width": 32}
FAMILIES = ("sdxl", "pixart_alpha", "pixart_sigma")


@pytest.fixture(scope="module")
def pipes():
    """One pipeline of each family, shared: tests must leave them as they are."""
    return {name: getattr(tiny, name)() for name in FAMILIES}


@pytest.fixture(scope="module")
def folders(pipes, tmp_path_factory):
    """The same on disk."""
    made = {name: tmp_path_factory.mktemp("models") / name for name in FAMILIES}
    for name, pipe in pipes.items():
        pipe.save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def traces(pipes):
    """One run of each, both halves."""
    return {name: run(pipe, negative_prompt="sky", options={"guidance": "both"})[0] for name, pipe in pipes.items()}


@pytest.fixture(autouse=True)
def no_gradients():
    """With gradients, torch computes by other kernels than inside a pipeline's call."""
    with torch.no_grad():
        yield


def run(pipe, prompt="a dog on the grass", options=None, **changes):
    binning = {"use_resolution_binning": False, "clean_caption": False} if "PixArt" in type(pipe).__name__ else {}
    arguments = {**SIZE, **binning, "generator": torch.Generator().manual_seed(0), "guidance_scale": 3.0, **changes}
    with ovam.capture(pipe, **{"dtype": torch.float32, **(options or {})}) as captured:
        pipe(prompt, **arguments)
    return list(captured)


def own_keys(pipe, vectors):
    """Keys of every block by the denoiser's own modules: (head, token, head_dim)."""
    denoiser = backbone_of(pipe).denoiser
    with torch.no_grad():
        if getattr(denoiser, "caption_projection", None) is not None:
            vectors = denoiser.caption_projection(vectors)
        for name, spec in backbone_of(pipe).blocks().items():
            yield name, denoiser.get_submodule(name).to_k(vectors)[0].unflatten(-1, (spec.heads, -1)).transpose(0, 1)


class TestLateWords:
    def test_keys_of_sdxl_are_the_pipelines_own(self, pipes, traces):
        """Bit for bit, for a prompt that was not generated from."""
        pipe, text = pipes["sdxl"], traces["sdxl"].text
        read = text.embed(LATE, padded=True)
        own, *_ = pipe.encode_prompt(LATE, do_classifier_free_guidance=False)
        assert torch.equal(read.vectors, own[0])
        for name, keys in own_keys(pipe, own):
            if name in text.projections:
                assert torch.equal(text.keys(read.vectors, name, 0), keys)

    @pytest.mark.parametrize("family", ["pixart_alpha", "pixart_sigma"])
    def test_keys_of_pixart_are_the_pipelines_own(self, pipes, traces, family):
        """Bit for bit, where the mask leaves them."""
        pipe, text = pipes[family], traces[family].text
        read = text.embed(LATE, padded=True)
        own, mask, *_ = pipe.encode_prompt(LATE, False)
        tokens = int(mask.sum())
        assert torch.equal(read.vectors, own[0, :tokens])
        # as many rows as the model's, since a matrix product of another height rounds differently, by 2e-7
        rows = F.pad(read.vectors, (0, 0, 0, backbone_of(pipe).reader().limit - tokens))
        for name, keys in own_keys(pipe, own):
            assert torch.equal(text.keys(rows, name, 0)[:, :tokens], keys[:, :tokens])

    @pytest.mark.parametrize("family", FAMILIES)
    def test_padding_changes_no_vector_but_by_rounding(self, traces, family):
        text = traces[family].text
        short, padded = (text.embed(LATE, padded=padded) for padded in (False, True))
        # measured: 1e-6
        assert torch.allclose(short.vectors, padded.vectors[: len(short.vectors)], atol=1e-5)
        assert short.prompt.spans == padded.prompt.spans

    def test_words_are_those_that_were_typed(self, traces):
        for trace in traces.values():
            assert trace.maps(LATE).words == ("A", "frog's", "boat", "in", "the", "red", "sea")
            assert trace.maps(["hot dog"]).words == ("hot dog",)


class TestWeights:
    def test_runs_of_one_model_share_a_copy(self):
        """Also a change behind autograd's back, as adapters are fused, makes a new one and leaves the old."""
        pipe = tiny.sdxl()
        first, second = (run(pipe)[0].text for _ in range(2))
        name = "up_blocks.0.attentions.0.transformer_blocks.0.attn2"
        before = first.projections[name].clone()
        assert first.projections[name] is second.projections[name]
        pipe.unet.get_submodule(name).to_k.weight.data += 1
        (third,) = run(pipe)
        assert torch.equal(first.projections[name], before)
        assert torch.equal(third.text.projections[name], before + 1)


class TestTwoEncoders:
    def test_space_names_both_and_their_layer(self, pipes, traces):
        space = traces["sdxl"].text.space
        first, second = space.encoder.split(" + ")
        assert first.startswith("CLIPTextModel:")
        assert second.startswith("CLIPTextModelWithProjection:")
        assert (space.layer, space.width) == ("hidden-2", 32 + 24)

    def test_skipped_layers_are_those_of_the_pipeline(self):
        pipe = tiny.sdxl()
        (trace,) = run(pipe, clip_skip=1)
        own, *_ = pipe.encode_prompt("a dog", do_classifier_free_guidance=False, clip_skip=1)
        assert trace.text.space.layer == "hidden-3"
        assert torch.equal(trace.text.embed("a dog", padded=True).vectors, own[0])

    def test_a_second_prompt_is_noted_and_its_keys_come_back(self, pipes, caplog):
        pipe, prompts = pipes["sdxl"], ("a dog", "red boat")
        names = list(backbone_of(pipe).blocks())
        with caplog.at_level(logging.WARNING, "ovam"), spied_kernel(pipe.unet, names) as received:
            (trace,) = run(pipe, prompts[0], {"blocks": names}, prompt_2=prompts[1], guidance_scale=1.0)
        assert "prompt_2 differs from prompt" in caplog.text
        assert trace.source.prompt == "a dog"
        first, second = (trace.text.embed(prompt, padded=True).vectors for prompt in prompts)
        joined = torch.cat([first[:, :32], second[:, 32:]], dim=-1)
        for name in names:
            assert torch.equal(trace.text.keys(joined, name, 0), received[name][0][1][0])

    def test_the_same_prompt_twice_is_nothing_to_note(self, pipes, caplog):
        with caplog.at_level(logging.WARNING, "ovam"):
            run(pipes["sdxl"], ["a dog", "a cat"], prompt_2=["a dog", "a cat"])
        assert "prompt_2" not in caplog.text

    @pytest.mark.parametrize("zeros", [True, False])
    def test_halves_where_the_unconditional_text_is_zero(self, zeros):
        """Its queries are those of the batch's first half, whose text is zeros by the model's configuration."""
        pipe = tiny.sdxl(force_zeros_for_empty_prompt=zeros)
        name = "up_blocks.0.attentions.0.transformer_blocks.0.attn2"
        recording = ExplicitSoftmax()
        with spied_kernel(pipe.unet, [name]) as received:
            (trace,) = run(pipe, options={"blocks": [name], "guidance": "both"})
        pipe.unet.get_submodule(name).set_processor(recording)
        run(pipe)
        assert [bool(text.any()) for text in recording.seen[0].text] == [not zeros, True]
        for half, row in (("uncond", 0), ("cond", 1)):
            own = torch.stack([query[row] for query, _ in received[name]], dim=1)
            assert torch.equal(trace.blocks[name].query[half], own)

    def test_tokenizers_that_cut_a_text_differently(self, monkeypatch):
        pipe = tiny.sdxl()
        monkeypatch.setattr(tiny, "WORDS", ["a", "cat"])
        pipe.tokenizer_2 = tiny.tokenizer(pad_token="!")
        text = backbone_of(pipe).reader()
        assert text.embed("a cat").prompt.tokens == ("<start>", "a", "cat", "<end>")
        with pytest.raises(UnsupportedPipelineError, match=r"cut 'a dog' in different ways, into 4 and 6 tokens"):
            text.embed("a dog")

    def test_without_the_first_encoder_the_second_is_read_alone(self):
        """As the refiner is made."""
        pipe = tiny.sdxl()
        pipe.tokenizer = pipe.text_encoder = None
        own, *_ = pipe.encode_prompt("a dog", device="cpu", do_classifier_free_guidance=False)
        assert torch.equal(backbone_of(pipe).reader().embed("a dog", padded=True).vectors, own[0])
        pipe.text_encoder_2 = None
        with pytest.raises(NoTextEncoderError, match="no text_encoder_2"):
            backbone_of(pipe).reader()


class TestT5:
    @pytest.mark.parametrize(
        ("text", "tokens", "spans"),
        [
            ("a dog", ["a", "dog", "<end>"], {"a": (0,), "dog": (1,)}),
            ("A DOG", ["a", "dog", "<end>"], {"A": (0,), "DOG": (1,)}),
            # a word in pieces begins with the sign of its blank
            ("a frog", ["a", "▁", "f", "r", "o", "g", "<end>"], {"a": (0,), "frog": (1, 2, 3, 4, 5)}),
            ("  a \n dog, red", ["a", "dog", ",", "red", "<end>"], {"a": (0,), "dog": (1,), "red": (3,)}),
            ("the hot dog", ["the", "hot", "dog", "<end>"], {"the": (0,), "hot": (1,), "dog": (2,)}),
            ("İ dog", None, {"İ": (0, 1, 2), "dog": (3,)}),  # a letter whose lower case is two
        ],
    )
    def test_tokens_of_each_word(self, pipes, text, tokens, spans):
        prompt = backbone_of(pipes["pixart_alpha"]).reader().embed(text).prompt
        assert {span.text: span.tokens for span in prompt.spans} == spans
        assert tokens is None or list(prompt.tokens) == tokens

    def test_longest_prompts(self, pipes):
        for family, limit in (("pixart_alpha", 120), ("pixart_sigma", 300)):
            reader = backbone_of(pipes[family]).reader()
            fits = " ".join(["dog"] * (limit - 1))
            assert len(reader.embed(fits).vectors) == reader.limit == limit
            with pytest.raises(PromptTooLongError, match=rf"{limit + 1} tokens.*reads {limit}: 'sky' would be cut"):
                reader.check_length(fits + " sky")

    def test_attention_is_divided_among_the_prompts_own_tokens(self, traces):
        """Padding is masked in the model, so there is none to divide with."""
        trace = traces["pixart_alpha"]
        maps, padded = (trace.maps("a dog", softmax_over=over) for over in ("prompt", "padded"))
        assert maps.tokens == padded.tokens == ("a", "dog", "<end>")
        assert torch.allclose(maps.token_maps.sum(0), torch.ones(8, 8), atol=1e-5)
        assert torch.allclose(maps.token_maps, padded.token_maps, atol=1e-4)  # sharp attention magnifies rounding

    def test_special_tokens_by_name(self, traces):
        maps = traces["pixart_alpha"].maps("a dog")
        assert torch.equal(maps["<end>"], maps.token_maps[2])
        for absent in ("<start>", "<pad>"):
            with pytest.raises(UnknownWordError):
                maps[absent]
        with pytest.raises(AmbiguousWordError, match="each of the 2 attribution prompts"):
            traces["pixart_alpha"].maps(["dog", "sky"])["<end>"]


class TestFiles:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("inside", [True, False])
    def test_a_trace_comes_back(self, pipes, folders, traces, tmp_path, monkeypatch, family, inside):
        trace, path = traces[family], tmp_path / "run.safetensors"
        if not inside:
            monkeypatch.setattr(static_text, "PROJECTIONS_INSIDE", 0)
        trace.save(path)
        expected = trace.maps('a "hot dog" and a kitten', guidance="uncond").token_maps
        for text in (pipes[family], folders[family]):
            loaded = ovam.Trace.load(path, text=text)
            assert loaded.text.space == trace.text.space
            assert torch.equal(loaded.maps('a "hot dog" and a kitten', guidance="uncond").token_maps, expected)
        if inside:
            loaded = ovam.Trace.load(path)
            assert torch.equal(loaded.maps(trace.text.embed("sky")).token_maps, trace.maps("sky").token_maps)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_text_is_read_without_the_denoiser(self, folders, traces, tmp_path, monkeypatch, family):
        traces[family].save(tmp_path / "run.safetensors")
        index = json.loads((folders[family] / "model_index.json").read_text())
        for part in {"unet", "transformer", "vae"} & set(index):
            kind = getattr(__import__("diffusers"), index[part][1])
            monkeypatch.setattr(kind, "from_pretrained", None)
        loaded = ovam.Trace.load(tmp_path / "run.safetensors", text=folders[family])
        assert torch.equal(loaded.maps("sky").token_maps, traces[family].maps("sky").token_maps)

    def test_another_second_encoder_is_refused(self, traces, tmp_path):
        traces["sdxl"].save(tmp_path / "run.safetensors")
        other = tiny.sdxl()
        with torch.no_grad():
            next(other.text_encoder_2.parameters())[0, 0] += 1
        with pytest.raises(SpaceMismatchError, match=r"CLIPTextModelWithProjection:\w+, layer hidden-2"):
            ovam.Trace.load(tmp_path / "run.safetensors", text=other)

    @pytest.mark.parametrize(
        "name",
        ["caption_projection.linear_1.weight", "caption_projection.linear_2.bias", "transformer_blocks.1.attn2.bias"],
    )
    def test_weights_of_another_shape_are_refused(self, traces, tmp_path, name):
        path = tmp_path / "run.safetensors"
        traces["pixart_alpha"].save(path)
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        tensors[f"projection/{name}"] = torch.zeros(7, 5)[: 7 if "weight" in name else 1].squeeze()
        save_file(tensors, path, metadata)
        with pytest.raises(TraceFileError, match=name.removesuffix(".weight").replace(".", r"\.")):
            ovam.Trace.load(path)

    def test_a_selection_keeps_what_its_blocks_need(self, traces, tmp_path):
        part = traces["pixart_alpha"].select(blocks=["transformer_blocks.1"])
        part.save(tmp_path / "part.safetensors")
        with safe_open(tmp_path / "part.safetensors", framework="pt") as file:
            stored = {name for name in file.keys() if name.startswith("projection/")}  # noqa: SIM118
        assert len([name for name in stored if "caption" in name]) == 4
        assert not [name for name in stored if "transformer_blocks.0" in name]

    def test_info_of_a_model(self, folders):
        about = describe_model(folders["sdxl"])
        assert (about["pipeline"], about["size"], about["prompt_tokens"]) == ("StableDiffusionXLPipeline", [32, 32], 77)
        assert " + CLIPTextModelWithProjection" in about["text_encoder"]
        grids = {block["name"].split(".")[0]: block["grid"] for block in about["blocks"]}
        assert grids == {"down_blocks": [8, 8], "mid_block": [8, 8], "up_blocks": [8, 8]}
        about = describe_model(folders["pixart_sigma"])
        assert (about["size"], about["prompt_tokens"]) == ([32, 32], 300)
        assert {tuple(block["grid"]) for block in about["blocks"]} == {(8, 8)}


def test_generate_runs_pixart_with_its_defaults(tmp_path, monkeypatch):
    """Its pipeline has a callback of its own, no None for a negative prompt, and sizes it prefers."""
    bins = "diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma.ASPECT_RATIO_256_BIN"
    monkeypatch.setattr(bins, {"1.0": [32.0, 32.0]})
    pipe = tiny.pixart_sigma(sample_size=32)
    generate("a dog", ["dog"], model=pipe, output_dir=tmp_path, height=40, width=40, num_inference_steps=2)
    trace = ovam.Trace.load(tmp_path / "run.safetensors", text=pipe)
    assert (trace.size, trace.blocks["transformer_blocks.0.attn2"].grid) == ((40, 40), (8, 8))


def inputs_of(pipe, action):
    """Inputs of the denoiser in its first call, besides the latent."""
    seen = []

    def note(module, args, kwargs):
        seen.append(kwargs)

    handle = backbone_of(pipe).denoiser.register_forward_pre_hook(note, with_kwargs=True)
    action()
    handle.remove()
    flat = {**seen[0], **seen[0]["added_cond_kwargs"]}
    kept = ("encoder_hidden_states", "encoder_attention_mask", "text_embeds", "time_ids", "resolution", "aspect_ratio")
    return {key: flat[key] for key in kept if flat.get(key) is not None}


def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))


class TestRealImages:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("prompt", ["a dog", ""])
    def test_the_denoiser_is_told_what_the_pipeline_tells_it(self, pipes, family, prompt):
        """An empty prompt is told as to the unconditional half, a text as to the conditional one."""
        pipe = pipes[family]
        encoding = inputs_of(pipe, lambda: ovam.encode(pipe, photo(), prompt=prompt, timesteps=[300], size=(32, 48)))
        whole = inputs_of(pipe, lambda: run(pipe, prompt or "a dog", width=48))
        row = slice(1, 2) if prompt else slice(0, 1)
        assert set(encoding) == set(whole)
        for name, value in encoding.items():
            # a batch of two texts rounds otherwise than one; measured: 5e-7
            assert torch.allclose(value, whole[name][row], atol=1e-5), name

    def test_no_prompt_is_zeros_in_sdxl(self, pipes):
        encoding = inputs_of(pipes["sdxl"], lambda: ovam.encode(pipes["sdxl"], photo(), timesteps=[300]))
        assert not encoding["encoder_hidden_states"].any()

    @pytest.mark.parametrize("family", ["sdxl", "pixart_sigma"])
    def test_native_size_keeps_proportions(self, pipes, family):
        trace = ovam.encode(pipes[family], photo(), timesteps=[300, 100], noises=2)
        assert {block.grid for block in trace.blocks.values()} == {(7, 10)}
        assert (trace.size, [call.timestep for call in trace.calls]) == ((32, 48), [300, 300, 100, 100])
        assert trace.maps(["dog"]).resized().token_maps.shape[-2:] == (32, 48)

    def test_a_narrow_autoencoder_is_widened_as_the_pipeline_does(self):
        pipe = tiny.sdxl().to(torch.float16)
        seen = []
        handle = pipe.vae.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
        trace = ovam.encode(pipe, photo(), timesteps=[300], size=(32, 32))
        handle.remove()
        assert (seen, pipe.vae.dtype) == ([torch.float32], torch.float16)
        assert all(torch.isfinite(block.query["cond"]).all() for block in trace.blocks.values())

    def test_a_scheduler_without_a_noise_schedule_is_refused(self):
        pipe = tiny.pixart_sigma()
        del pipe.scheduler.alphas_cumprod
        with pytest.raises(UnsupportedPipelineError, match="PixArtSigmaPipeline with a DPMSolverMultistepScheduler"):
            ovam.encode(pipe, photo(), timesteps=[300])
