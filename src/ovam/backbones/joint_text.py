"""Text encoders of joint-attention models: one padded sequence of vectors, made by several encoders.

Texts are always padded here, as in the pipeline. T5 and the text stream see the padding, so a token's keys depend on
it. `TokenEmbedding.own` lists the positions of the prompt's tokens, padding excluded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ovam.backbones.learned import added_names, with_all_vectors
from ovam.backbones.offload import unwrapped
from ovam.backbones.sampled import sampled_hash
from ovam.backbones.unknown import meaningless, warn_of_unknown
from ovam.errors import PromptTooLongError
from ovam.prompt import AttributionPrompt, Span, Unit, locate, parse, phrase
from ovam.shapes import Embedding
from ovam.trace.as_read import only_words_read, positions_as_typed, without_padding
from ovam.trace.text_side import Space, TokenEmbedding

_PAD = "<pad>"


@dataclass
class Reader:
    """A tokenizer and text encoder, and the positions of the sequence that they fill.

    Attributes:
        tokenizer: A fast tokenizer, which gives each token's characters.
        encoder: The text encoder.
        first: First position.
        length: Number of positions. Two encoders may fill the same positions, in different channels.
        all_vectors: Whether the pipeline replaces an added name by all of its vectors; see `learned`.
        read: Tokens that a run read, padding included, by text; these texts are not tokenized again.
    """

    tokenizer: Any
    encoder: Any
    first: int
    length: int
    all_vectors: bool = False
    read: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Reading:
    """A text as one reader reads it.

    Attributes:
        ids: Token numbers (1, length), padding included.
        count: Number of the text's own tokens, which come first; the others are padding.
        names: Name of each token.
        offsets: Position of each token in the text.
        cut: Number of tokens that the reader leaves out at the end of the text.
    """

    ids: Tensor
    count: int
    names: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    cut: int


class JointText:
    """The text encoders of one pipeline; gives the sequence of vectors that its denoiser reads.

    Args:
        readers: The pipeline's tokenizers and text encoders.
        encode: From the token numbers (1, length) of each reader to the sequence (token, width).
        layer: Layer of the encoders; see `Space.layer`.
        length: Length of the sequence; positions that no reader fills are padding.
        width: Channels of a vector.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        encode: Callable[[Sequence[Tensor]], Embedding],
        *,
        layer: str,
        length: int,
        width: int,
    ) -> None:
        self.readers, self.encode = tuple(readers), encode
        self.layer, self.length, self.width = layer, length, width

    @property
    def limit(self) -> int:
        """Number of tokens that the encoder with the longest input reads; the others cut longer texts.

        An encoder whose tokenizer is empty counts as well, so use `check_length` to check a text.
        """
        return max(reader.length for reader in self.readers)

    @property
    def space(self) -> Space:
        """Space of the vectors."""
        return self.space_in(torch.float32)

    def space_in(self, dtype: torch.dtype) -> Space:
        """Return the space of a copy with weights in `dtype`; float32 and float16 give the same."""
        encoders = [unwrapped(reader.encoder) for reader in self.readers]
        names = [f"{type(encoder).__name__}:{sampled_hash(encoder, dtype)}" for encoder in encoders]
        return Space(" + ".join(names), self.layer, self.width)

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """Return the padded sequence of a text, in float32, and the positions that get maps.

        Args:
            text: A prompt, or with `as_phrase` one unit.
            as_phrase: The whole text is one word or phrase.
            padded: Include the padding among the tokens. Without it the vectors are the same, but `own` excludes the
                padding.

        Raises:
            EmptyWordsError: the text has no word.
            PromptTooLongError: no encoder reads the whole text. If one does, the others may cut its end, as in the
                pipeline itself.
        """
        added = {name for reader in self.readers for name in added_names(reader.tokenizer)}
        plain, units = phrase(text, added) if as_phrase else parse(text, added)
        readings = [_read(reader, plain) for reader in self.readers]
        self._check_read(plain, readings)
        with torch.no_grad():
            vectors = self.encode([reading.ids for reading in readings]).float()
        prompt = self._located(plain, units, readings)
        self._warn_of_unknown(prompt.spans, readings)
        prompt = only_words_read(prompt)
        if padded:
            return TokenEmbedding(vectors, prompt, self.space)
        own = self._own(readings)
        spans = tuple(Span(span.text, tuple(own.index(i) for i in span.tokens)) for span in prompt.spans)
        shown = AttributionPrompt(plain, tuple(prompt.tokens[i] for i in own), spans)
        return TokenEmbedding(vectors, shown, self.space, own)

    def _warn_of_unknown(self, spans: Sequence[Span], readings: Sequence[_Reading]) -> None:
        unknown, blanks = set[int](), set[int]()
        for reader, reading in zip(self.readers, readings, strict=True):
            found = meaningless(reader.tokenizer, reading.ids[0, : reading.count].tolist())
            for positions, more in zip((unknown, blanks), found, strict=True):
                positions |= {reader.first + i for i in more}
        warn_of_unknown(spans, unknown, blanks)

    def _own(self, readings: Sequence[_Reading]) -> tuple[int, ...]:
        """Return the positions without padding; uses counts, not names, since a text may contain the word `<pad>`."""
        filled = zip(self.readers, readings, strict=True)
        return tuple(sorted({reader.first + i for reader, reading in filled for i in range(reading.count)}))

    def check_length(self, text: str) -> None:
        """Check that an encoder reads the whole text; see `TextReader.check_length`."""
        self._check_read(text, [_read(reader, text) for reader in self.readers])

    def _located(self, plain: str, units: Sequence[Unit], readings: Sequence[_Reading]) -> AttributionPrompt:
        """Return the prompt with each unit's tokens of all readers, by character offsets; tokenizers may differ."""
        tokens, places = [_PAD] * self.length, [set[int]() for _ in units]
        for reader, reading in zip(self.readers, readings, strict=True):
            for i, name in enumerate(reading.names, start=reader.first):
                tokens[i] = name if tokens[i] == _PAD else tokens[i]
            found = locate(plain, units, reading.names, reading.offsets)
            for place, span in zip(places, found.spans, strict=True):
                place.update(reader.first + i for i in span.tokens)
        spans = tuple(Span(unit.text, tuple(sorted(place))) for unit, place in zip(units, places, strict=True))
        return AttributionPrompt(plain, tuple(tokens), spans)

    def _check_read(self, plain: str, readings: Sequence[_Reading]) -> None:
        if any(plain in reader.read for reader in self.readers):
            return
        seen = {reading.cut: len(reading.names) for reading in readings if reading.count}
        cut = min(seen, default=0)
        if not cut:
            return
        limit = seen[cut]
        raise PromptTooLongError(
            f"prompt {plain[:40]!r}... has {limit + cut} tokens, special ones included, but the text encoders "
            f"read {limit}: expected {cut} fewer; shorten it, query its parts one by one, or run the pipeline "
            "with a larger max_sequence_length"
        )


def _read(reader: Reader, plain: str) -> _Reading:
    tokenizer = reader.tokenizer
    found = tokenizer(plain, return_offsets_mapping=True, verbose=False)
    ids, offsets = list(found.input_ids), list(found.offset_mapping)
    if reader.all_vectors:
        ids, offsets = with_all_vectors(tokenizer, plain, found)
    if plain in reader.read:
        read = without_padding(tokenizer, reader.read[plain])
        ids, offsets = read, positions_as_typed(read, ids, offsets)
    whole, room = len(ids), reader.length - 1  # the end token stays
    ids, offsets = ([*part[:-1][:room], *part[-1:]] for part in (ids, offsets))  # an empty tokenizer gives none
    names = []
    for token, (start, stop) in zip(ids, offsets, strict=True):
        special = "<start>" if token == tokenizer.bos_token_id else "<end>"
        names.append(plain[start:stop].strip().lower() if stop > start else special)  # no characters: special
    padding = reader.length - len(ids)
    return _Reading(
        torch.tensor([[*ids, *[tokenizer.pad_token_id] * padding]]),
        len(ids),
        (*names, *[_PAD] * padding),
        (*offsets, *[(0, 0)] * padding),
        max(0, whole - reader.length),
    )
