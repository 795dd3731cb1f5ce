"""A real byte-level BPE `CLIPTokenizer`, trained on an English word list, so that rarer words split."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

WORD_LIST = Path("/usr/share/dict/american-english")  # Debian: wamerican
VOCABULARY = 3072
_SUFFIX = "</w>"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_COMMON = (
    "a an the of on in at by to with and or next under over front photograph photo picture image is it "
    "cat dog car bus cow bird sheep boat horse train person chair sofa grass sand water snow road sky wall floor "
    "red blue green black white brown big small two three"
).split()
"""Words that stay one token, as frequent words do in CLIP's own vocabulary; the others split as they may."""


def _merges(words: list[str]) -> list[tuple[str, str]]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix=_SUFFIX))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=alphabet,
        end_of_word_suffix=_SUFFIX,
        special_tokens=list(_SPECIAL),
        show_progress=False,
    )
    bpe.train_from_iterator(words + _COMMON * 2000, trainer)
    merges = json.loads(bpe.to_str())["model"]["merges"]
    return [(head, rest) for head, rest in merges]


def train_tokenizer() -> CLIPTokenizer:
    """Train on the lower-case words of Debian's `wamerican` list.

    Raises:
        FileNotFoundError: the word list is not installed.
    """
    if not WORD_LIST.exists():
        raise FileNotFoundError(f"word list {WORD_LIST} is missing: install Debian's package wamerican")
    words = [word for word in WORD_LIST.read_text().split() if word.isalpha() and word.islower() and word.isascii()]
    merges = _merges(words)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = alphabet + [letter + _SUFFIX for letter in alphabet] + [a + b for a, b in merges] + list(_SPECIAL)
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocabulary)},
        merges=merges,
        pad_token="<|endoftext|>",
        model_max_length=77,
    )
