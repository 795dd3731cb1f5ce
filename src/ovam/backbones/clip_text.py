"""CLIP text encoders: from a text to tokens, to each word's tokens (by character offsets), and to vectors."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ovam.backbones.learned import added_names, with_all_vectors
from ovam.backbones.offload import device_of, marks, real_weights, unwrapped
from ovam.errors import PromptTooLongError, UnsupportedPipelineError
from ovam.prompt import AttributionPrompt, Unit, locate, parse, phrase
from ovam.tensor_file import fingerprint
from ovam.trace.as_read import Offsets, only_words_read, positions_as_typed, without_padding
from ovam.trace.text_side import Space, TokenEmbedding

_AT_ONCE = 32
"""Maximum number of texts in one run of an encoder."""

log = logging.getLogger("ovam")
_hashes: WeakKeyDictionary[Any, tuple[object, str]] = WeakKeyDictionary()


def encoder_name(encoder: Any, dtype: torch.dtype = torch.float32) -> str:
    """Return an encoder's class name and a hash of its current weights in `dtype`; see `ovam.trace.trace.Space`.

    A compiled encoder has the same name as the plain one, since it reads words alike. The hash is computed again only
    if the weights have changed.
    """
    encoder = unwrapped(encoder)
    if dtype == torch.bfloat16:
        return f"{type(encoder).__name__}:{fingerprint(real_weights(encoder), dtype)}"
    state, kept = marks(encoder), _hashes.get(encoder)
    if kept is None or kept[0] != state:
        _hashes[encoder] = kept = (state, fingerprint(real_weights(encoder)))
    return f"{type(encoder).__name__}:{kept[1]}"


def check_tokens(plain: str, offsets: Sequence[Offsets], limit: int) -> None:
    """Check that a text encoder reads all tokens of a text.

    Args:
        plain: The text.
        offsets: Position of each token: its first character, and the end (exclusive).
        limit: Maximum number of tokens that the encoder reads.

    Raises:
        PromptTooLongError: the text has more tokens.
    """
    count = len(offsets)
    if count <= limit:
        return
    cut = plain[offsets[limit - 1][0] :]
    raise PromptTooLongError(
        f"prompt {plain[:40]!r}... has {count} tokens, special ones included, but the text encoder reads "
        f"{limit}: {cut!r} would be cut; shorten it by {count - limit} tokens or query its parts one by one"
    )


class ClipText:
    """A CLIP tokenizer and text encoder; gives the hidden states that a denoiser reads.

    Args:
        tokenizer: A fast tokenizer.
        encoder: The text encoder.
        layer: `last`; or `skip-N`, N layers below the last, with the final normalisation (Stable Diffusion with
            clip-skip); or `hidden-N`, the N-th hidden state from the end, without it (SDXL reads `hidden-2`).
        read: Tokens that a run read, by text; these texts are not tokenized again.
    """

    def __init__(
        self, tokenizer: Any, encoder: Any, layer: str = "last", read: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.tokenizer, self.encoder, self.layer, self.read = tokenizer, encoder, layer, read or {}

    @property
    def limit(self) -> int:
        return int(self.tokenizer.model_max_length)

    @property
    def space(self) -> Space:
        return self.space_in(torch.float32)

    def space_in(self, dtype: torch.dtype) -> Space:
        return Space(encoder_name(self.encoder, dtype), self.layer, self.encoder.config.hidden_size)

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        found = self.embed_all(text, as_phrase=as_phrase, padded=padded)
        return replace(found, prompt=only_words_read(found.prompt))

    def embed_all(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """Like `embed`, but the prompt keeps words that the run did not read."""
        added = added_names(self.tokenizer)
        read = phrase(text, added) if as_phrase else parse(text, added)
        return self._embedded([self._located(*read, padded=padded)])[0]

    def embed_phrases(self, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]:
        """See `ovam.trace.phrases.ReadsMany`."""
        added = added_names(self.tokenizer)
        read = [self._located(*phrase(text, added), padded=padded) for text in phrases]
        return [found for i in range(0, len(read), _AT_ONCE) for found in self._embedded(read[i : i + _AT_ONCE])]

    def _located(self, plain: str, units: Sequence[Unit], *, padded: bool) -> tuple[list[int], AttributionPrompt]:
        """Return the token numbers of a text, and the prompt with each unit's tokens."""
        ids, offsets = self._tokens(plain)
        padding = self.limit - len(ids) if padded else 0
        inside = [plain[start:stop].lower() for start, stop in offsets[1:-1]]  # CLIP reads lower case
        names = ["<start>", *inside, "<end>", *["<pad>"] * padding]
        prompt = locate(plain, units, names, [*offsets, *[(0, 0)] * padding])
        return [*ids, *[self.tokenizer.pad_token_id] * padding], prompt

    def _embedded(self, texts: Sequence[tuple[list[int], AttributionPrompt]]) -> list[TokenEmbedding]:
        """Embed texts in one run of the encoder; shorter texts are padded at their end, which changes no vector."""
        longest, space = max(len(ids) for ids, _ in texts), self.space
        rows = [[*ids, *[self.tokenizer.pad_token_id] * (longest - len(ids))] for ids, _ in texts]
        states = self._hidden(torch.tensor(rows))
        return [
            TokenEmbedding(found[: len(ids)], prompt, space) for found, (ids, prompt) in zip(states, texts, strict=True)
        ]

    def check_length(self, text: str) -> None:
        self._tokens(text)

    def _tokens(self, plain: str) -> tuple[list[int], list[Offsets]]:
        """Return the tokens that the pipeline reads, and their positions in the text."""
        encoded = self.tokenizer(plain, return_offsets_mapping=True, truncation=False, verbose=False)
        ids, offsets = with_all_vectors(self.tokenizer, plain, encoded)
        if plain in self.read:
            read = without_padding(self.tokenizer, self.read[plain])
            return read, positions_as_typed(read, ids, offsets)
        check_tokens(plain, offsets, self.limit)
        return ids, offsets

    @torch.no_grad()
    def _hidden(self, ids: Tensor) -> Tensor:
        """Return the hidden states that the denoiser reads, (text, token, width).

        CLIP is causal, so leaving out the padding changes no token.
        """
        outputs = self.encoder(ids.to(device_of(self.encoder)), output_hidden_states=self.layer != "last")
        if self.layer == "last":
            return outputs.last_hidden_state.float()
        kind, depth = self.layer.split("-")
        if kind == "hidden":
            return outputs.hidden_states[-int(depth)].float()
        model = getattr(self.encoder, "text_model", self.encoder)
        return model.final_layer_norm(outputs.hidden_states[-(int(depth) + 1)]).float()


class ClipTexts:
    """Several CLIP encoders: each reads the whole text, and their vectors are concatenated along the channels."""

    def __init__(self, parts: Sequence[ClipText]) -> None:
        self.parts = tuple(parts)

    @property
    def limit(self) -> int:
        return min(part.limit for part in self.parts)

    @property
    def space(self) -> Space:
        return self.space_in(torch.float32)

    def space_in(self, dtype: torch.dtype) -> Space:
        spaces = [part.space_in(dtype) for part in self.parts]
        encoders = " + ".join(space.encoder for space in spaces)
        return Space(encoders, spaces[0].layer, sum(space.width for space in spaces))

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """See `TextReader.embed`.

        Raises:
            UnsupportedPipelineError: the tokenizers give different tokens, so that vectors can't be joined by position.
        """
        read = [part.embed_all(text, as_phrase=as_phrase, padded=padded) for part in self.parts]
        found = self._joined(text, read)
        return replace(found, prompt=only_words_read(found.prompt))

    def embed_phrases(self, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]:
        """See `ovam.trace.phrases.ReadsMany`; raises the errors of `embed`."""
        of_parts = [part.embed_phrases(phrases, padded=padded) for part in self.parts]
        return [self._joined(text, read) for text, *read in zip(phrases, *of_parts, strict=True)]

    def _joined(self, text: str, read: Sequence[TokenEmbedding]) -> TokenEmbedding:
        if any(embedding.prompt != read[0].prompt for embedding in read):
            cuts = " and ".join(str(len(embedding.prompt.tokens)) for embedding in read)
            raise UnsupportedPipelineError(
                f"the tokenizers of this pipeline cut {text[:40]!r} in different ways, into {cuts} tokens: expected "
                "the same tokens from each, since the text encoders' vectors are joined token by token; load added "
                "tokens into every tokenizer"
            )
        vectors = torch.cat([embedding.vectors.to(read[0].vectors.device) for embedding in read], dim=-1)
        return TokenEmbedding(vectors, read[0].prompt, self.space)

    def check_length(self, text: str) -> None:
        for part in self.parts:
            part.check_length(text)
