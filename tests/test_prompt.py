"""Attribution prompts: words as typed, the tokens of each by position, and vectors as the pipeline would make them."""

import pytest
import torch

import tiny
from ovam.backbones import clip_text
from ovam.backbones.clip_text import ClipText
from ovam.backbones.registry import backbone_of
from ovam.backbones.unet import UNetBackbone
from ovam.errors import EmptyWordsError, OptionError, PromptTooLongError
from ovam.prompt import Span, list_of_words, locate, parse, phrase, with_phrases
from ovam.trace.phrases import embed_phrases


def words_of(text):
    return [unit.text for unit in parse(text)[1]]


@pytest.fixture(scope="module")
def clip(sd1):
    return ClipText(sd1.tokenizer, sd1.text_encoder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a cat on the grass", ["a", "cat", "on", "the", "grass"]),
        ("  a cat,  and a dog! ", ["a", "cat", "and", "a", "dog"]),
        ('a sign that says "hello cat"', ["a", "sign", "that", "says", "hello", "cat"]),
        ('5" by 7" of "" cat', ["5", "by", "7", "of", "cat"]),
        ('a 12" pizza', ["a", "12", "pizza"]),
        ("a T-shirt of the dog's owner", ["a", "T-shirt", "of", "the", "dog's", "owner"]),
        ("dog’s café 東京", ["dog’s", "café", "東京"]),
        ("un cafe\u0301 noir", ["un", "cafe\u0301", "noir"]),
        ("लाल हिन्दी, नीला", ["लाल", "हिन्दी", "नीला"]),
        ("a \u2764\ufe0f cat", ["a", "\u2764\ufe0f", "cat"]),
        ("a 🐶 and 👩🏽\u200d🚀!", ["a", "🐶", "and", "👩🏽\u200d🚀"]),
        ("photo (best quality:1.2), 4k", ["photo", "best", "quality", "4k"]),
    ],
)
def test_words_are_what_was_typed(text, words):
    plain, units = parse(text)
    assert [unit.text for unit in units] == words
    assert [plain[unit.start : unit.stop].strip() for unit in units] == words


@pytest.mark.parametrize("text", ['a sign that says "hello cat"', '5" by 7"', "a (cat:1.3)"])
def test_the_encoder_reads_the_text_as_given(clip, text):
    """Asking a trace its own prompt must give the model's own tokens."""
    own = clip.tokenizer.convert_ids_to_tokens(clip.tokenizer(text).input_ids)
    assert parse(text)[0] == text
    assert len(clip.embed(text).prompt.tokens) == len(own)


def test_phrases_of_a_prompt_are_one_unit_wherever_they_stand(clip):
    prompt = with_phrases(clip.embed("the Hot dog, a hot dog").prompt, ["hot dog"])
    assert prompt.spans == (Span("the", (1,)), Span("hot dog", (2, 3)), Span("a", (5,)), Span("hot dog", (6, 7)))
    assert with_phrases(prompt, []) == prompt
    with pytest.raises(OptionError, match=r"'dog hot' does not stand in the prompt.*maps\(\['dog hot'\]\)"):
        with_phrases(clip.embed("a hot dog").prompt, ["dog hot"])


@pytest.mark.parametrize("text", ["", "   ", "...", '""', '" "', "-"])
def test_a_text_without_words_is_refused(text):
    with pytest.raises(EmptyWordsError):
        parse(text)
    with pytest.raises(EmptyWordsError):
        phrase(text)
    with pytest.raises(EmptyWordsError):
        list_of_words(["cat", text])


def test_a_listed_text_is_one_unit():
    assert list_of_words([" hot dog ", "sky"]) == ("hot dog", "sky")
    plain, units = phrase(" hot dog ")
    assert (plain, [(unit.text, unit.start, unit.stop) for unit in units]) == ("hot dog", [("hot dog", 0, 7)])


@pytest.mark.parametrize(
    ("text", "tokens", "spans"),
    [
        ("a dog", ["<start>", "a", "dog", "<end>"], {"a": (1,), "dog": (2,)}),
        # "frog" is unknown, so it falls into letters, and "dogs" into "dog" without its word's end
        ("a frog", ["<start>", "a", "f", "r", "o", "g", "<end>"], {"a": (1,), "frog": (2, 3, 4, 5)}),
        ("A DOG", ["<start>", "a", "dog", "<end>"], {"A": (1,), "DOG": (2,)}),
        ("a  dog \n on", ["<start>", "a", "dog", "on", "<end>"], {"a": (1,), "dog": (2,), "on": (3,)}),
        ("dog!", None, {"dog": (1,)}),
    ],
)
def test_tokens_of_each_word(clip, text, tokens, spans):
    prompt = clip.embed(text).prompt
    assert {span.text: span.tokens for span in prompt.spans} == spans
    assert tokens is None or list(prompt.tokens) == tokens


def test_a_word_that_stands_twice_keeps_its_two_places(clip):
    assert clip.embed("a dog and a cat").prompt.spans == (
        Span("a", (1,)),
        Span("dog", (2,)),
        Span("and", (3,)),
        Span("a", (4,)),
        Span("cat", (5,)),
    )


def test_a_word_inside_another_is_not_found_there(clip):
    spans = {span.text: span.tokens for span in clip.embed("hat in that hot shot").prompt.spans}
    assert spans["hat"] == (1,)
    assert not set(spans["that"]) & set(spans["hat"])
    assert not set(spans["shot"]) & set(spans["hot"])


@pytest.mark.parametrize(
    "text",
    ["a dog’s café in 東京, naïve", "it's a T-shirt", "un cafe\u0301, हिन्दी", "ﬁne ① x²", 'the "hot dog!" 🐶 dog'],
)
def test_every_word_token_belongs_to_one_word(clip, text):
    prompt = clip.embed(text).prompt
    owned = [token for span in prompt.spans for token in span.tokens]
    assert len(owned) == len(set(owned))
    assert all(span.tokens for span in prompt.spans)
    assert not {0, len(prompt.tokens) - 1} & set(owned)


def test_tokens_on_both_sides_of_a_word_s_border():
    """A token that reaches over a border belongs to both words; special tokens, of no characters, to none."""
    _, units = parse("ab cd")
    offsets = [(0, 0), (0, 1), (1, 4), (4, 5), (5, 5)]
    prompt = locate("ab cd", units, ["<start>", "a", "b c", "d", "<end>"], offsets)
    assert [span.tokens for span in prompt.spans] == [(1, 2), (2, 3)]


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_vectors_are_those_of_the_pipeline(family, request):
    """Padded, they are what the denoiser gets; not padded, their beginning, since CLIP looks back only."""
    pipe = request.getfixturevalue(family)
    text = "a frog on the grass"
    padded, short = (UNetBackbone(pipe).text_side(()).embed(text, padded=padded) for padded in (True, False))
    own = pipe.encode_prompt(text, "cpu", 1, False)[0][0]
    # measured: 0 padded, 7e-7 without padding
    assert torch.allclose(padded.vectors, own, atol=1e-5)
    assert torch.allclose(short.vectors, own[: len(short.vectors)], atol=1e-5)
    assert padded.prompt.spans == short.prompt.spans
    assert padded.prompt.tokens[len(short.vectors) :] == ("<pad>",) * (77 - len(short.vectors))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("make", [tiny.sd1, tiny.sd2, tiny.sdxl], ids=lambda make: make.__name__)
def test_phrases_read_at_once_are_those_read_one_by_one(make, padded, monkeypatch):
    """Of several lengths, in more than one run of the encoder, which ends in the middle of them."""
    monkeypatch.setattr(clip_text, "_AT_ONCE", 3)
    reader = backbone_of(make()).reader()
    phrases = ["dog", "a dog on the grass", "hot dog", "a frog", "sky"]
    together = embed_phrases(reader, phrases, padded=padded)
    assert [found.prompt.spans[0].text for found in together] == phrases
    for text, found in zip(phrases, together, strict=True):
        alone = reader.embed(text, as_phrase=True, padded=padded)
        assert (found.prompt, found.space) == (alone.prompt, alone.space)
        assert torch.allclose(found.vectors, alone.vectors, rtol=0, atol=1e-5)  # measured: 9e-7, padded 0


def test_a_typed_padding_sign_is_a_token_of_the_text(sd2):
    """Stable Diffusion 2 pads with '!', which a user may type as well."""
    prompt = ClipText(sd2.tokenizer, sd2.text_encoder).embed("dog !", padded=True).prompt
    assert prompt.tokens[:4] == ("<start>", "dog", "!", "<end>")
    assert set(prompt.tokens[4:]) == {"<pad>"}


def test_skipped_layers_are_those_of_the_pipeline(sd1, monkeypatch):
    # this diffusers still looks for the encoder's last normalisation where transformers before 5 had it
    monkeypatch.setitem(vars(sd1.text_encoder), "text_model", sd1.text_encoder)
    own = sd1.encode_prompt("a dog", "cpu", 1, False, clip_skip=1)[0][0]
    skipping = ClipText(sd1.tokenizer, sd1.text_encoder, "skip-1")
    found = skipping.embed("a dog", padded=True)
    assert torch.allclose(found.vectors, own, atol=1e-5)
    plain = ClipText(sd1.tokenizer, sd1.text_encoder).embed("a dog", padded=True)
    assert not torch.allclose(plain.vectors, own, atol=0.1)
    assert found.space != plain.space


def test_space_tells_encoders_apart(sd1):
    words = tiny.tokenizer()
    other = ClipText(words, tiny.text_encoder(words))
    same = ClipText(sd1.tokenizer, tiny.sd1().text_encoder)
    assert ClipText(sd1.tokenizer, sd1.text_encoder).space == same.space
    assert ClipText(sd1.tokenizer, sd1.text_encoder).space != other.space


def test_space_survives_a_change_of_type():
    pipe = tiny.sd1()
    before = ClipText(pipe.tokenizer, pipe.text_encoder).space
    assert ClipText(pipe.tokenizer, pipe.text_encoder.half()).space == before


def test_the_longest_prompt_that_is_read(clip):
    fits = " ".join(["dog"] * 75)
    assert len(clip.embed(fits).vectors) == 77
    with pytest.raises(PromptTooLongError, match=r"78 tokens.*reads 77: 'sky' would be cut"):
        clip.embed(fits + " sky")
    with pytest.raises(PromptTooLongError, match="'dog sky dog' would be cut"):
        clip.embed(" ".join(["sky"] * 74) + " dog dog sky dog")
