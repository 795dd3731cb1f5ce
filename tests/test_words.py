"""Words by one rule on every model: added names, special tokens, embeddings in place of a prompt, long texts."""

import pytest
import torch

import ovam
import tiny
from ovam import tensor_file
from ovam.backbones.registry import backbone_of
from ovam.errors import EmptyWordsError, PromptTooLongError, TraceFileError, UnknownWordError
from ovam.prompt import parse, with_phrases
from ovam.trace import file as trace_file
from ovam.trace.text_side import Space

NAME, PROMPT = "<cat-toy>", "a <cat-toy> on the grass, a red <cat-toy>"
RUN = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "latent"}

# the schedulers of some families copy tensors into arrays as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def vectors(width, count=3):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(7))


def sd1():
    pipe = tiny.sd1()
    pipe.load_textual_inversion({NAME: vectors(32)})
    return pipe, lambda text: pipe.encode_prompt(text, "cpu", 1, False)[0][0]


def sdxl():
    pipe = tiny.sdxl()
    for part, width in (("", 32), ("_2", 24)):
        encoder, tokenizer = (getattr(pipe, f"{name}{part}") for name in ("text_encoder", "tokenizer"))
        pipe.load_textual_inversion(vectors(width), token=NAME, text_encoder=encoder, tokenizer=tokenizer)
    return pipe, lambda text: pipe.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)[0][0]


def flux():
    pipe = tiny.flux()
    options = {"text_encoder": pipe.text_encoder_2, "tokenizer": pipe.tokenizer_2}
    pipe.load_textual_inversion(vectors(40), token=NAME, **options)
    return pipe, lambda text: pipe.encode_prompt(text, None, "cpu")[0][0]


@pytest.fixture(scope="module", params=[sd1, sdxl, flux], ids=lambda made: made.__name__)
def taught(request):
    """A pipeline with a name of three vectors, and what it makes of a text itself."""
    return request.param()


def captured(pipe, prompt="a dog", options=None, **changes):
    with ovam.capture(pipe, dtype=torch.float32, **(options or {})) as traces:
        pipe(prompt, **{**RUN, "generator": torch.Generator().manual_seed(0), **changes})
    return traces[0]


class TestAddedNames:
    def test_vectors_are_those_of_the_pipeline(self, taught):
        """All three, in the generation prompt and in a late word, and each belongs to the one word."""
        pipe, encoded = taught
        found = backbone_of(pipe).reader().embed(PROMPT, padded=True)
        with torch.no_grad():
            own = encoded(PROMPT)
        assert torch.allclose(found.vectors, own, rtol=0, atol=1e-5)  # measured: 0
        assert not torch.allclose(found.vectors, encoded(PROMPT.replace(NAME, "dog")), atol=0.1)
        prompt = with_phrases(found.prompt, [f"red {NAME}"])
        spans = {span.text: span.tokens for span in prompt.spans}
        first = spans["on"][0]
        assert [*spans] == ["a", NAME, "on", "the", "grass", f"red {NAME}"]
        assert spans[NAME] == (first - 3, first - 2, first - 1)
        assert len(spans[f"red {NAME}"]) == 4

    def test_late_and_by_name(self, taught):
        pipe, _ = taught
        trace = captured(pipe, "a dog", **({} if "Flux" not in type(pipe).__name__ else {"max_sequence_length": 16}))
        maps = trace.maps(f"a {NAME} on the grass")
        assert torch.equal(maps[NAME], maps.token_maps[list(maps.spans[1].tokens)].sum(0))
        assert len(maps.spans[1].tokens) == 3
        listed = trace.maps([NAME, "dog"])
        assert listed.words == (NAME, "dog")
        assert torch.allclose(listed[NAME], trace.maps([NAME])[NAME], atol=1e-6)

    def test_all_vectors_count(self, taught):
        reader = backbone_of(taught[0]).reader()
        special = len(reader.embed("dog").prompt.tokens) - 1
        fits = " ".join(["dog"] * (reader.limit - special - 3))
        reader.check_length(f"{fits} {NAME}")
        with pytest.raises(PromptTooLongError, match=f"{reader.limit + 1} tokens"):
            reader.check_length(f"{fits} dog {NAME}")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a sks dog", ["a", "sks", "dog"]),
            ("she asks", ["she", "asks"]),
            ("the * of a <x>_y", ["the", "*", "of", "a", "x", "_y"]),
            ("<x> and <x>, <X>", ["<x>", "and", "<x>", "<X>"]),
        ],
    )
    def test_names_stand_for_themselves_but_not_within_words(self, text, words):
        assert [unit.text for unit in parse(text, ("sks", "*", "<x>"))[1]] == words
        if "*" in text:
            with pytest.raises(EmptyWordsError):
                parse("*")


@pytest.mark.parametrize("made", [tiny.sd3, tiny.flux], ids=lambda made: made.__name__)
def test_embeddings_in_place_of_a_prompt(made):
    """Of joint attention as well: the run is the same, and late words get the same maps."""
    pipe = made()
    options = {"max_sequence_length": 16}
    prompts = {"prompt_2": None} | ({"prompt_3": None} if made is tiny.sd3 else {})
    with torch.no_grad():
        given = pipe.encode_prompt("a dog", **prompts, **options)
    handed = (given[0], given[2]) if made is tiny.sd3 else given[:2]
    named = dict(zip(("prompt_embeds", "pooled_prompt_embeds"), handed, strict=True))
    if made is tiny.sd3:
        named |= {"negative_prompt_embeds": given[1], "negative_pooled_prompt_embeds": given[3]}
    by_text, by_vectors = captured(pipe, **options), captured(pipe, None, **options, **named)
    assert (by_vectors.source.prompt, by_vectors.source.negative_prompt) == (None, None)
    assert torch.equal(by_vectors.maps(["sky"])["sky"], by_text.maps(["sky"])["sky"])
    own = by_vectors.maps(handed[0][0]).token_maps
    assert torch.equal(own, by_text.maps("a dog", softmax_over="padded").token_maps)


@pytest.mark.parametrize("made", [tiny.sd1, tiny.sd3, tiny.flux], ids=lambda made: made.__name__)
def test_the_negative_prompts_words(made):
    """They are asked of the half that was told them, whose picture of them is another than the other half's."""
    guidance = {"true_cfg_scale": 3.0} if made is tiny.flux else {"guidance_scale": 3.0}
    trace = captured(made(), options={"guidance": "both"}, negative_prompt="red sky", **guidance)
    assert trace.source.negative_prompt == "red sky"
    denied, wanted = (trace.maps(trace.source.negative_prompt, guidance=half)["sky"] for half in ("uncond", "cond"))
    assert (denied - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("made", [tiny.sdxl, tiny.sd3], ids=lambda made: made.__name__)
def test_clip_skip_is_not_the_negative_prompts(made, caplog):
    """Its words are read from another layer than the run read them from, and that is said; its vectors are its own."""
    pipe = made()
    options = {"negative_prompt": "red sky", "guidance_scale": 3.0, "clip_skip": 1}
    trace = captured(pipe, options={"guidance": "both"}, **options)
    trace.maps("red sky")
    third = {"prompt_3": None} if made is tiny.sd3 else {}
    with torch.no_grad():
        own = pipe.encode_prompt("a dog", None, negative_prompt="red sky", clip_skip=1, **third)[1][0]
    assert torch.equal(own, backbone_of(pipe).reader("hidden-2").embed("red sky", padded=True).vectors)
    trace.maps(own, guidance="uncond")
    assert "clip_skip" not in caplog.text
    trace.maps("red sky", guidance="uncond")
    assert "are read from layer 'hidden-3', like the run's prompt" in caplog.text
    caplog.clear()
    with ovam.stream(pipe, ["sky"], guidance="uncond"):
        pipe("a dog", **RUN, **options)
    assert "do not apply clip_skip to the negative prompt" in caplog.text


def test_layers_that_a_family_reads_by_itself_are_not_skipped():
    layers = {"last": False, "skip-0": False, "skip-1": True, "hidden-2": False, "hidden-3": True}
    assert {layer: Space("CLIPTextModel:0", layer, 8).skips for layer in layers} == layers


class TestSpecialTokens:
    def test_where_there_are_none_it_is_said(self, sd1):
        trace = captured(sd1)
        maps = trace.maps("a dog")
        with pytest.raises(UnknownWordError, match=r"'<pad>' is no token of these maps: they have <start>, <end>;"):
            maps["<pad>"]
        assert trace.maps("a dog", softmax_over="padded")["<pad>"].shape == maps.grid


class TestLongTexts:
    def test_pixart_reads_what_the_run_was_told_to(self):
        pipe = tiny.pixart_sigma()
        words = " ".join(["dog"] * 318 + ["cat"])
        trace = captured(pipe, words, max_sequence_length=320, use_resolution_binning=False)
        assert trace.maps(words).words[-1] == "cat"
        with pytest.raises(PromptTooLongError, match="reads 320"):
            trace.maps(words + " sky")
        with pytest.raises(PromptTooLongError, match="reads 300"):
            captured(pipe, use_resolution_binning=False).maps(words)


@pytest.mark.parametrize("made", [tiny.sd3, tiny.flux], ids=lambda made: made.__name__)
def test_a_late_word_is_read_at_the_runs_own_length(made):
    """T5 sees its padding in these models, so that a word's vectors depend on how long the run's text was."""
    short, long = (captured(made(), max_sequence_length=length).text for length in (8, 32))
    first, second = (text.embed("a dog") for text in (short, long))
    assert first.prompt == second.prompt
    own = [embedding.vectors[list(embedding.own)] for embedding in (first, second)]
    assert not torch.allclose(*own, atol=1e-2)
    pipe = made()
    with torch.no_grad():
        handed = pipe.encode_prompt(
            "a dog", None, **({"prompt_3": None} if made is tiny.sd3 else {}), max_sequence_length=8
        )
    assert torch.equal(first.vectors, handed[0][0])


class TestUnknownWords:
    """T5's vocabulary has no sign for many languages: all such words are one token, and their maps alike."""

    @pytest.mark.parametrize("make", [tiny.pixart_alpha, tiny.flux], ids=lambda make: make.__name__)
    def test_they_are_named(self, make, caplog):
        reader = backbone_of(make()).reader()
        with caplog.at_level("WARNING", logger="ovam"):
            reader.embed("a dog")
            assert not caplog.records
            reader.embed("猫", as_phrase=True)
        assert "does not know '猫'" in caplog.text

    def test_a_word_that_one_of_two_encoders_knows_is_not(self, caplog):
        with caplog.at_level("WARNING", logger="ovam"):
            backbone_of(tiny.sd3()).reader().embed("猫", as_phrase=True)
            backbone_of(tiny.sd1()).reader().embed("猫", as_phrase=True)
        assert "does not know" not in caplog.text


def own_vectors(pipe, prompt, **options):
    """What the denoiser was told, as the pipeline itself makes it."""
    kind = type(pipe).__name__
    others = {"prompt_2": None} if "Flux" in kind else {"prompt_2": None, "prompt_3": None} if "3" in kind else {}
    with torch.no_grad():
        made = pipe.encode_prompt(prompt, **others, device="cpu", num_images_per_prompt=1, **options)
    masked = "PixArt" in kind
    return made[0][0][made[1][0].bool()] if masked else made[0][0]


READERS = {
    "sd1": (tiny.sd1, {}, {"do_classifier_free_guidance": True}, 77),
    "sdxl": (tiny.sdxl, {}, {}, 77),
    "pixart": (tiny.pixart_sigma, {"max_sequence_length": 300, "use_resolution_binning": False}, {}, 300),
    "sd3": (tiny.sd3, {"max_sequence_length": 80}, {"max_sequence_length": 80}, 80),
    "flux": (tiny.flux, {"max_sequence_length": 16}, {"max_sequence_length": 16}, 16),
}


class TestTheRunsOwnTokens:
    """Its own prompt is asked by the tokens that the encoder read, which another cutting may not give again."""

    @pytest.mark.parametrize("name", READERS)
    def test_a_prompt_over_the_encoders_length(self, name, caplog, tmp_path):
        make, arguments, options, length = READERS[name]
        pipe, prompt = make(), " ".join(["dog"] * (length - 3) + ["cat"] * 3 + ["sky", "sea"])
        trace = captured(pipe, prompt, **arguments)
        with caplog.at_level("WARNING", logger="ovam"):
            maps = trace.maps(prompt, softmax_over="prompt" if name == "pixart" else "padded")
        assert "'sky', 'sea'. The pipeline cut these words off" in caplog.text
        assert caplog.text.count("did not read") == 1
        assert {*maps.words} == {"dog", "cat"}
        expected = trace.maps(own_vectors(pipe, prompt, **options)).token_maps
        torch.testing.assert_close(maps.token_maps, expected, rtol=0, atol=1e-6)
        with pytest.raises(PromptTooLongError):
            trace.maps(f"{prompt} sea")
        trace.save(tmp_path / "run.safetensors")
        again = ovam.Trace.load(tmp_path / "run.safetensors", text=pipe)
        assert torch.equal(again.maps(prompt).token_maps, trace.maps(prompt).token_maps)

    @pytest.mark.parametrize("prompt", ["a <Cat-Toy> on the grass", "a <cat-toy> dog"])
    def test_names_of_several_vectors_with_capitals(self, prompt):
        """CLIP's tokenizer writes them small, and its pipelines then find no further vectors of theirs."""
        for name in ("<Cat-Toy>", "<cat-toy>"):
            pipe = tiny.sd1()
            pipe.load_textual_inversion({name: vectors(32)})
            trace = captured(pipe, prompt)
            expected = trace.maps(own_vectors(pipe, prompt, do_classifier_free_guidance=False)).token_maps
            late_maps = trace.maps(prompt, softmax_over="padded")
            assert torch.equal(late_maps.token_maps, expected)
            late = captured(pipe, "a dog").maps(prompt)
            assert [len(span.tokens) for span in late.spans] == [len(span.tokens) for span in late_maps.spans]

    def test_a_caption_that_the_pipeline_cleans(self, caplog):
        pipe, prompt = tiny.pixart_alpha(), "A Dog & a #sky cat @grass"
        clean = pipe._text_preprocessing
        pipe._text_preprocessing = lambda text, clean_caption=False: [
            one.replace("& ", "").replace("#sky ", "").replace("@grass", "lawn")
            for one in clean(text, clean_caption=False)
        ]
        trace = captured(pipe, prompt, use_resolution_binning=False)
        maps = trace.maps(prompt)
        assert maps.words == ("A", "Dog", "a", "cat", "grass")
        assert "did not read 'sky'" in caplog.text
        expected = trace.maps(own_vectors(pipe, prompt)).token_maps
        torch.testing.assert_close(maps.token_maps, expected, rtol=0, atol=1e-5)  # measured: 1e-6
        with ovam.stream(pipe, prompt) as streamed:
            pipe(prompt, **RUN, generator=torch.Generator().manual_seed(0), use_resolution_binning=False)
        torch.testing.assert_close(streamed[0].token_maps, maps.token_maps, rtol=0, atol=1e-6)  # measured: 6e-8

    @pytest.mark.parametrize("read", [[{"a dog": [10**6]}], [{"a dog": [True]}], [{"a dog": []}], [{}, {}]])
    def test_a_file_with_tokens_that_are_none_is_refused(self, read, tmp_path):
        pipe, path = tiny.sd1(), tmp_path / "run.safetensors"
        captured(pipe).save(path)
        header, tensors = tensor_file.read_file(path, trace_file.FORMAT)
        header["text"]["read"] = read
        tensor_file.write_file(path, header, tensors, trace_file.FORMAT)
        with pytest.raises(TraceFileError, match=r"the prompt's tokens: expected|the file has tokens of 2 tokenizers"):
            ovam.Trace.load(path, text=pipe)

    def test_each_prompt_and_negative_prompt_of_a_run(self):
        pipe = tiny.sd1()
        long = " ".join(["dog"] * 80)
        with ovam.capture(pipe, guidance="both") as traces:
            pipe([long, "a cat"], negative_prompt=[f"{long} sky", "sea"], **RUN)
        assert [len(trace.maps(trace.source.prompt).tokens) for trace in traces] == [77, 4]
        assert [len(trace.maps(trace.source.negative_prompt, guidance="uncond").tokens) for trace in traces] == [77, 3]

    def test_a_text_that_an_encoder_reads_in_parts_is_cut_into_tokens_anew(self):
        """As pipelines for long prompts do it: which part a call is of is not known."""
        pipe = tiny.sd1()
        encode = pipe.encode_prompt

        def in_parts(prompt, *args, **kwargs):
            for part in prompt.split(", "):
                encode(part, *args, **kwargs)
            return encode(prompt, *args, **kwargs)

        pipe.encode_prompt = in_parts
        trace = captured(pipe, "a cat, a dog")
        assert trace.maps("a cat, a dog").tokens == ("<start>", "a", "cat", ",", "a", "dog", "<end>")
