"""Joint attention: words of several encoders, texts that are run again, and the traces that make it possible."""

import json
import logging
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import ovam
import reference
import tiny
from exact import repeated
from ovam import errors
from ovam.backbones.base import Backbone
from ovam.backbones.registry import backbone_of
from ovam.backbones.sd3 import SD3Backbone
from ovam.commands.generate import generate as generate_files
from ovam.commands.info import describe_model
from ovam.maps.attention import weight_sums
from ovam.prompt import with_phrases
from ovam.text_sides import text_of
from ovam.tokens.token_set import BACKGROUND, Fit, TokenGroup, TokenSet
from ovam.trace.text_side import TextReader

PROMPT = "a dog on the grass"
RUN = {"num_inference_steps": 3, "height": 32, "width": 48, "max_sequence_length": 16}
FAMILIES = {"sd3": tiny.sd3, "sd35": lambda: tiny.sd3(newer=True), "flux": tiny.flux}


def generate(pipe, **changes):
    return pipe(PROMPT, **{**RUN, "generator": torch.Generator().manual_seed(0), "output_type": "np", **changes}).images


def captured(pipe, options=None, **changes):
    with ovam.capture(pipe, **{"dtype": torch.float32, **(options or {})}) as traces:
        generate(pipe, **changes)
    return traces


@pytest.fixture(scope="module", params=FAMILIES)
def pipe(request):
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def trace(pipe):
    return captured(pipe)[0]


@pytest.fixture(scope="module")
def sd3():
    return tiny.sd3()


@pytest.fixture(scope="module")
def tensors():
    """Queries, keys of two prompts, and image keys, at random."""
    random = torch.Generator().manual_seed(0)
    query, image = (2 * torch.randn(2, 3, 7, 4, generator=random) for _ in range(2))
    return query, 2 * torch.randn(2, 5, 4, generator=random), image


class TestSoftmaxOverImageAndText:
    """Against float64 in plain loops."""

    LENGTHS = (3, 2)

    @pytest.mark.parametrize(("head", "step"), list(product([False, True], repeat=2)))
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_equals_the_definition(self, tensors, head, step, dtype):
        query, key, image = tensors[0].to(dtype), tensors[1], tensors[2].to(dtype)
        options = {"scale": 0.5, "lengths": self.LENGTHS, "keep_head": head, "keep_step": step}
        found = weight_sums(query, key, image_key=image, **options)
        double = [part.double().numpy() for part in (query, key, image)]
        expected = reference.joint_weights(*double, 0.5, self.LENGTHS)
        summed = tuple(axis for axis, kept in enumerate((head, step)) if not kept)
        assert np.abs(found.numpy() - expected.sum(summed, keepdims=True)).max() <= 1e-5  # measured: 6e-7

    def test_takes_nothing_where_the_image_is_far(self, tensors):
        query, key = tensors[0].abs() + 0.1, tensors[1]
        alone = weight_sums(query, key, scale=0.5, lengths=self.LENGTHS)
        shared = weight_sums(query, key, scale=0.5, lengths=self.LENGTHS, image_key=torch.full_like(query, -1e4))
        assert torch.allclose(shared, alone, atol=1e-5)

    def test_is_cut_into_pieces(self, tensors, monkeypatch):
        query, key, image = tensors
        whole = weight_sums(query, key, scale=0.5, lengths=self.LENGTHS, image_key=image)
        monkeypatch.setattr("ovam.maps.attention._FLOATS", 10)
        assert torch.allclose(weight_sums(query, key, scale=0.5, lengths=self.LENGTHS, image_key=image), whole)

    def test_is_refused_where_pixels_attend_to_text_alone(self, sd1):
        with ovam.capture(sd1) as traces:
            sd1(PROMPT, num_inference_steps=2, height=32, width=32)
        for action in (
            lambda: traces[0].maps("dog", softmax_over="joint"),
            lambda: ovam.stream(sd1, "dog", softmax_over="joint").__enter__(),
        ):
            with pytest.raises(errors.OptionError, match="pixels attend to text alone: expected 'prompt' or 'padded'"):
                action()


class TestWords:
    def test_the_vectors_are_the_pipelines(self, pipe, trace):
        """Bit by bit what the denoiser is handed."""
        options = {"prompt_2": None, "device": "cpu", "max_sequence_length": 16}
        if trace.source.pipeline == "StableDiffusion3Pipeline":
            options |= {"prompt_3": None}
        with torch.no_grad():
            handed = pipe.encode_prompt(PROMPT, **options)[0][0]
        assert torch.equal(trace.text.embed(PROMPT, padded=True).vectors, handed)
        assert torch.equal(trace.text.embed(PROMPT).vectors, handed)

    def test_parts_of_all_encoders_are_one_word(self, sd3):
        """CLIP cuts an unknown word into letters; T5, behind CLIP's 77 positions, into a blank and letters."""
        text = captured(sd3)[0].text
        prompt = with_phrases(text.embed("a frog, hot dog", padded=True).prompt, ["hot dog"])
        spans = {span.text: span.tokens for span in prompt.spans}
        assert spans == {"a": (1, 77), "frog": (2, 3, 4, 5, 78, 79, 80, 81, 82), "hot dog": (7, 8, 84, 85)}
        assert len(prompt.tokens) == 93
        assert prompt.tokens[:3] == ("<start>", "a", "f")
        assert [prompt.tokens[i] for i in (9, 10, 86, 87)] == ["<end>", "<pad>", "<end>", "<pad>"]
        own = text.embed("a frog, hot dog")
        own = replace(own, prompt=with_phrases(own.prompt, ["hot dog"]))
        assert own.prompt.tokens == tuple(token for token in prompt.tokens if token != "<pad>")
        for span in own.prompt.spans:
            assert tuple(own.own[i] for i in span.tokens) == spans[span.text]

    def test_without_t5_its_positions_are_padding(self):
        text = captured(tiny.sd3(with_t5=False))[0].text
        embedding = text.embed("a dog", padded=True)
        assert set(embedding.prompt.tokens[77:]) == {"<pad>"}
        assert not embedding.vectors[77:].any()
        assert text.space.encoder.count("+") == 1

    def test_clip_skip_is_the_runs(self, sd3):
        skipping, plain = captured(sd3, clip_skip=1)[0].text, captured(sd3)[0].text
        assert (skipping.space.layer, plain.space.layer) == ("hidden-3", "hidden-2")
        with torch.no_grad():
            handed = sd3.encode_prompt(PROMPT, None, None, clip_skip=1, max_sequence_length=16)[0][0]
        assert torch.equal(skipping.embed(PROMPT).vectors, handed)

    def test_t5_reads_on_where_clip_ends(self, sd3):
        """As in the pipeline, whose CLIP part is cut with a warning."""
        text = captured(sd3, max_sequence_length=128)[0].text
        long = " ".join(["dog"] * 80 + ["cat"])
        spans = text.embed(long).prompt.spans
        assert len(spans[0].tokens) == 2
        assert len(spans[80].tokens) == 1

    def test_a_reader_needs_no_denoiser(self, pipe, trace, tmp_path, monkeypatch):
        """As a pipeline's folder is read for its texts alone; more positions than the run's are more padding."""
        pipe.save_pretrained(tmp_path)
        monkeypatch.setattr(type(pipe.transformer), "from_pretrained", None)
        reader = text_of(tmp_path, trace.text.space.layer)
        assert isinstance(reader, TextReader)
        assert reader.space == trace.text.space
        assert reader.limit == (512 if trace.source.pipeline == "FluxPipeline" else 256)
        assert reader.embed("a dog").prompt == trace.text.embed("a dog").prompt
        reader.check_length(" ".join(["dog"] * (reader.limit - 1)))
        with pytest.raises(errors.PromptTooLongError, match=f"has {reader.limit + 1} tokens"):
            reader.check_length(" ".join(["dog"] * reader.limit))

    def test_info_of_a_model(self, pipe, tmp_path):
        pipe.save_pretrained(tmp_path)
        about = describe_model(tmp_path)
        assert about["prompt_tokens"] == backbone_of(pipe).reader().limit
        assert {tuple(block["grid"]) for block in about["blocks"]} == {(about["size"][0] // 4,) * 2}

    def test_the_name_of_padding_as_a_word(self, trace):
        """T5's tokenizer reads it as one token, at a place of the text's own."""
        padded, own = (trace.text.embed("a <pad> cat", padded=padded) for padded in (True, False))
        for span, part in zip(padded.prompt.spans, own.prompt.spans, strict=True):
            assert tuple(own.own[i] for i in part.tokens) == span.tokens
        assert trace.maps("a <pad> cat").words == tuple(span.text for span in own.prompt.spans)

    def test_what_no_encoder_reads_is_refused(self, trace):
        words = " ".join(["dog"] * (15 if trace.source.pipeline == "FluxPipeline" else 90))
        assert trace.text.embed(words[:40]).prompt.spans
        with pytest.raises(errors.PromptTooLongError, match="larger max_sequence_length"):
            trace.text.embed(words + " cat")

    def test_special_tokens_by_name(self, trace):
        maps = trace.maps("a dog", softmax_over="padded")
        assert bool((maps["<end>"] > 0).all())
        assert bool((maps["<pad>"] > 0).all())
        assert torch.allclose(maps.token_maps.sum(0), torch.ones(maps.grid), atol=1e-5)
        with pytest.raises(errors.AmbiguousWordError, match="2 attribution prompts"):
            trace.maps(["dog", "cat"])["<end>"]


class TestLateWords:
    def test_adding_an_entry_changes_no_other(self, trace):
        difference = trace.maps(["dog", "sky"])["sky"] - trace.maps(["sky"])["sky"]
        assert difference.abs().max() <= 1e-6  # products of another width round differently

    def test_shares_of_image_and_text(self, trace):
        """The image takes a share of every token's, and the shares of the text add up to less than 1."""
        joint, padded = (trace.maps("a red boat", softmax_over=over) for over in ("joint", "padded"))
        assert bool((joint.token_maps.sum(0) < 1 + 1e-6).all())
        assert joint.token_maps.sum(0).mean() < 0.99
        assert joint.tokens == padded.tokens

    def test_vectors_and_their_gradients(self, trace):
        embedding = trace.text.embed("a cat")
        vectors = embedding.vectors.clone().requires_grad_()
        block = list(trace.blocks)[1]
        key = trace.text.keys(vectors, block, 1)
        assert torch.equal(key.detach(), trace.text.keys(embedding.vectors, block, 1))
        key.square().sum().backward()
        assert vectors.grad.abs().sum(-1).min() > 0  # every token meets every other before this block
        assert not trace.text.keys(embedding.vectors, block, 1).requires_grad
        raw = trace.maps(vectors.detach()[:3])
        assert raw.words == ("vector 0", "vector 1", "vector 2")

    def test_what_was_not_kept_can_not_be_replayed(self, pipe):
        names = list(captured(pipe)[0].blocks)
        part = captured(pipe, {"blocks": names[:2], "steps": [1]})[0]
        vectors = part.text.embed("dog").vectors
        cases = [
            (errors.MissingBlockError, (names[2], 1, "cond"), "of 2 blocks"),
            (errors.MissingStepError, (names[0], 0, "cond"), "expected a call from these: .1."),
            (errors.NothingCapturedError, (names[0], 1, "uncond"), "guidance='both'"),
        ]
        for error, (block, call, half), message in cases:
            with pytest.raises(error, match=message):
                part.text.keys(vectors, block, call, half)
        with pytest.raises(errors.SpaceMismatchError, match="vectors of width 3"):
            part.text.keys(vectors[:, :3], names[0], 1)

    def test_a_model_that_was_changed_is_refused(self):
        pipe = tiny.flux()
        trace = captured(pipe)[0]
        with torch.no_grad():
            pipe.transformer.transformer_blocks[1].attn.to_k.weight *= 1.1
        with pytest.raises(errors.SpaceMismatchError, match="FluxTransformer2DModel was changed since the run"):
            trace.maps("dog")
        with torch.no_grad():
            pipe.text_encoder_2.shared.weight *= 1.1
        with pytest.raises(errors.SpaceMismatchError, match="text encoders were changed"):
            trace.text.embed("dog")


class TestStream:
    @pytest.mark.parametrize("kind", ["vectors", "tokens"])
    def test_words_of_another_length_than_the_runs_text(self, pipe, trace, kind):
        """They pass the same layers as the run's text, within its calls."""
        words = trace.text.embed("a dog").vectors[:3]
        if kind == "tokens":
            group = TokenGroup((BACKGROUND, "dog", "dog"), words, {}, Fit("tiny"))
            words = TokenSet((group,), trace.text.space)
        with ovam.stream(pipe, words) as maps:
            generate(pipe)
        expected = trace.maps(words).token_maps
        assert (maps[0].token_maps - expected).abs().max() <= 1e-6  # measured: 0

    @pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # FLUX's own in autocast
    def test_words_are_float32_where_the_model_runs_in_autocast(self, pipe):
        with torch.autocast("cpu", torch.bfloat16):
            (trace,) = captured(pipe)
            with ovam.stream(pipe, "a dog") as maps:
                generate(pipe)
        expected = trace.maps("a dog").token_maps
        assert (maps[0].token_maps - expected).abs().max() <= 1e-6  # measured: 0; words in autocast 0.0042 to 0.0055


class TestRepeatedLayers:
    """A processor that projects its pixels again leaves open which of both its attention used."""

    @pytest.mark.parametrize("layer", ["to_q", "to_k", "to_v"])
    @pytest.mark.parametrize("way", ["capture", "stream"])
    def test_are_refused_by_the_block_s_name(self, pipe, layer, way):
        name = next(iter(backbone_of(pipe).blocks()))
        session = ovam.capture(pipe) if way == "capture" else ovam.stream(pipe, "a dog")
        refused = pytest.raises(errors.UnsupportedPipelineError, match=f"{name}.*{layer}.*each row projected once")
        with repeated(pipe.transformer.get_submodule(name), layer), session, refused:
            generate(pipe)


class TestCapture:
    def test_the_size_is_told_and_kept_to(self, pipe, trace, caplog):
        with caplog.at_level(logging.INFO, logger="ovam"):
            captured(pipe)
        blocks = len(trace.blocks)
        assert f"queries of {blocks} blocks, image keys and values of {blocks} blocks x 3 denoiser calls" in caplog.text
        for limit, fits in ((trace.nbytes, True), (trace.nbytes - 1, False)):
            if fits:
                assert len(captured(pipe, {"limit_gib": limit / 2**30}))
            else:
                with pytest.raises(errors.CaptureTooLargeError, match="image keys and values up to the last one"):
                    captured(pipe, {"limit_gib": limit / 2**30})

    def test_a_block_needs_those_before_it(self, pipe, trace):
        names = list(trace.blocks)
        part = captured(pipe, {"blocks": [names[2]], "steps": [0, 2]})[0]
        assert list(part.blocks) == [names[2]]
        assert list(part.replay.blocks) == names[:3]
        selected = trace.select(blocks=[names[2]], steps=[0, 2])
        assert selected.nbytes == part.nbytes
        assert torch.equal(selected.maps("a cat").token_maps, part.maps("a cat").token_maps)

    def test_latents_as_output(self, pipe):
        """FLUX and SD3 do not say that they hand out latents; the run is complete all the same."""
        traces = captured(pipe, output_type="latent")
        assert len(traces) == 1
        assert traces[0].image_png is None
        assert traces[0].size == (32, 48)

    def test_fused_projections(self, sd3):
        pipe = tiny.sd3()
        before = captured(pipe)[0]
        pipe.transformer.fuse_qkv_projections()
        plain = generate(pipe)
        with ovam.capture(pipe, dtype=torch.float32) as traces:
            assert np.array_equal(generate(pipe), plain)
        for name, block in traces[0].blocks.items():
            assert torch.allclose(block.query["cond"], before.blocks[name].query["cond"], atol=1e-3)

    def test_skip_layer_guidance(self, sd3):
        """Its further pass serves neither half and is left out."""
        options = {"skip_guidance_layers": [1], "skip_layer_guidance_start": -1.0, "skip_layer_guidance_stop": 1.0}
        plain = generate(sd3, **options)
        with ovam.capture(sd3, guidance="both") as traces:
            assert np.array_equal(generate(sd3, **options), plain)
        assert [call.step for call in traces[0].calls] == [0, 1, 2]

    def test_times_are_the_schedulers(self, pipe, trace):
        assert [call.timestep for call in trace.calls] == [float(t) for t in pipe.scheduler.timesteps]
        assert [call.sigma for call in trace.calls] == [float(s) for s in pipe.scheduler.sigmas[:-1]]

    def test_missing_parts_are_named(self):
        pipe = tiny.flux()
        pipe.text_encoder_2 = None
        with pytest.raises(errors.NoTextEncoderError, match="FluxPipeline has no text_encoder_2"):
            ovam.stream(pipe, "dog").__enter__()

    def test_a_size_that_the_pipeline_would_change_is_refused(self, pipe, tmp_path, monkeypatch):
        monkeypatch.setattr(pipe, "vae_scale_factor", 8)  # as in the published models
        for command in (
            lambda: generate_files("a cat", ["cat"], output_dir=tmp_path, model=pipe, height=160, width=168),
            lambda: ovam.plan(pipe, height=160, width=168),
        ):
            with pytest.raises(errors.OptionError, match=r"width=168: expected a (positive )?multiple of 16"):
                command()

    def test_a_family_that_can_not_look_at_real_images_says_so(self, sd3, monkeypatch):
        monkeypatch.setattr(SD3Backbone, "conditions", Backbone.conditions)
        with pytest.raises(
            errors.UnsupportedPipelineError,
            match="StableDiffusion3Pipeline can't encode real images: expected a family",
        ):
            ovam.encode(sd3, np.zeros((32, 32, 3), dtype=np.uint8))


class TestRealImages:
    @pytest.mark.parametrize("prompt", ["", "a dog"])
    def test_are_mixed_with_noise_in_a_straight_line(self, sd3, prompt):
        """And the text is what the pipeline itself tells its denoiser."""
        received = []

        def note(module, args, kwargs):
            received.append((args[0], kwargs))

        handle = sd3.transformer.register_forward_pre_hook(note, with_kwargs=True)
        image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        trace = ovam.encode(sd3, image, prompt=prompt, timesteps=(250, 500), seed=5, size=(32, 32))
        handle.remove()
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255 * 2 - 1
        noise = torch.Generator().manual_seed(5)
        with torch.no_grad():
            latent = sd3.vae.encode(pixels).latent_dist.mean
            vectors, _, pooled, _ = sd3.encode_prompt(prompt, None, None, do_classifier_free_guidance=False)
        clean = (latent - sd3.vae.config.shift_factor) * sd3.vae.config.scaling_factor
        for (noisy, kwargs), share in zip(received, (0.5, 0.25), strict=True):
            expected = (1 - share) * clean + share * torch.randn(clean.shape, generator=noise)
            assert (noisy - expected).abs().max() <= 1e-5  # measured: 1.4e-6
            assert kwargs["timestep"].tolist() == [1000 * share]
            assert torch.equal(kwargs["encoder_hidden_states"], vectors)
            assert torch.equal(kwargs["pooled_projections"], pooled)
        assert [call.timestep for call in trace.calls] == [500, 250]
        assert trace.maps(["dog"]).resized().token_maps.shape[-2:] == (32, 32)


def _cut(tensors, ending, cut):
    """Change all of the replay's tensors of a name's ending."""
    for name in [name for name in tensors if name.startswith("replay/") and name.endswith(ending)]:
        tensors[name] = cut(tensors[name]).contiguous()


DAMAGE = {
    "other order": (lambda header, tensors: header["text"]["replay"].reverse(), "not in the order"),
    "a gap": (lambda header, tensors: header["text"]["replay"].pop(0), "replay lacks|not in the order"),
    "a block twice": (lambda header, tensors: header["text"]["replay"].append(header["text"]["replay"][0]), "twice"),
    "no pixels": (
        lambda header, tensors: [_cut(tensors, part, lambda t: t[:, :, :0]) for part in ("/key", "/value")],
        "the header says",
    ),
    "fewer pixels": (
        lambda header, tensors: [_cut(tensors, part, lambda t: t[:, :, 1:]) for part in ("/key", "/value")],
        "the header says",
    ),
    "fewer heads": (
        lambda header, tensors: [_cut(tensors, part, lambda t: t[1:]) for part in ("/key", "/value")],
        "the model . heads",
    ),
    "fewer channels": (lambda header, tensors: _cut(tensors, "/conditioning", lambda t: t[:, 1:]), "channels"),
    "a call twice": (lambda header, tensors: header["calls"][1].update(header["calls"][0]), r"calls\[1\] is call 0"),
    "a million tokens": (lambda header, tensors: header["text"].update(tokens=10**6), "text.tokens is 1000000"),
}


class TestFile:
    @pytest.fixture
    def path(self, trace, tmp_path):
        trace.save(tmp_path / "run.safetensors")
        return tmp_path / "run.safetensors"

    def test_everything_comes_back(self, pipe, trace, path, tmp_path):
        loaded = ovam.Trace.load(path, text=pipe)
        assert (loaded.calls, loaded.nbytes, list(loaded.replay.blocks)) == (
            trace.calls,
            trace.nbytes,
            list(trace.replay.blocks),
        )
        assert loaded.text.space == trace.text.space
        for over in ("prompt", "padded", "joint"):
            found, expected = (t.maps("a red boat", softmax_over=over).token_maps for t in (loaded, trace))
            assert torch.equal(found, expected)
        loaded.save(tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()

    def test_text_from_a_folder(self, pipe, trace, path, tmp_path):
        pipe.save_pretrained(tmp_path / "model")
        loaded = ovam.Trace.load(path, text=tmp_path / "model")
        found, expected = (t.maps("a red boat").token_maps for t in (loaded, trace))
        # weights elsewhere in memory: some processors add in another order, measured 2.1e-7 (SD3), 2.7e-7 (FLUX)
        assert torch.allclose(found, expected, rtol=0, atol=3e-6)

    def test_without_its_model_it_is_refused(self, sd1, path):
        with pytest.raises(errors.NoTextEncoderError, match=r"trace of joint attention.*text=pipe"):
            ovam.Trace.load(path)
        with pytest.raises(errors.SpaceMismatchError, match="StableDiffusionPipeline, has no joint attention"):
            ovam.Trace.load(path, text=sd1)

    def test_another_model_is_refused(self, sd3, tmp_path):
        captured(sd3)[0].save(tmp_path / "run.safetensors")
        with pytest.raises(errors.SpaceMismatchError, match="the model it was made with"):
            ovam.Trace.load(tmp_path / "run.safetensors", text=tiny.sd3(seed=1))

    @pytest.mark.parametrize("damage", DAMAGE)
    def test_a_file_that_would_give_other_maps_is_refused(self, pipe, path, damage):
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["ovam"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        change, message = DAMAGE[damage]
        change(header, tensors)
        save_file(tensors, path, {"ovam": json.dumps(header)})
        with pytest.raises(errors.TraceFileError, match=message):
            ovam.Trace.load(path, text=pipe)

    @pytest.mark.parametrize("part", ["key", "value", "conditioning"])
    def test_a_damaged_replay_is_refused(self, sd3, tmp_path, part):
        path = tmp_path / "run.safetensors"
        captured(sd3)[0].save(path)
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["ovam"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        name = f"replay/cond/{header['text']['replay'][0]}/{part}"
        tensors[name] = tensors[name][:, :2].contiguous() if part != "conditioning" else tensors[name][:2].contiguous()
        save_file(tensors, path, {"ovam": json.dumps(header)})
        with pytest.raises(errors.TraceFileError, match=r"incomplete.*replay/cond"):
            ovam.Trace.load(path, text=sd3)

    def test_a_bfloat16_run_is_read_with_the_model_in_float32(self, tmp_path):
        pipe = tiny.flux()
        pipe.save_pretrained(tmp_path / "model")
        narrow = ovam.load(tmp_path / "model", dtype=torch.bfloat16)
        trace = captured(narrow, {"dtype": torch.bfloat16})[0]
        trace.save(tmp_path / "run.safetensors")
        loaded = ovam.Trace.load(tmp_path / "run.safetensors", text=tmp_path / "model")
        assert loaded.text.space == trace.text.space
        loaded.save(tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "run.safetensors").read_bytes()
        assert loaded.maps("a cat").token_maps.isfinite().all()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_each_call_of_a_narrow_flux_has_its_own_time_step():
    """It is handed time steps rounded to bfloat16, which are as far apart as the steps of a long run."""
    pipe = tiny.flux().to(torch.bfloat16)
    small = {"height": 32, "width": 32, "max_sequence_length": 4, "output_type": "latent"}
    with ovam.capture(pipe, blocks=["transformer_blocks.0"], dtype=torch.bfloat16) as traces:
        pipe("a dog", num_inference_steps=150, generator=torch.Generator().manual_seed(0), **small)
    assert [call.timestep for call in traces[0].calls] == pipe.scheduler.timesteps.tolist()
    assert [call.step for call in traces[0].calls] == list(range(150))
