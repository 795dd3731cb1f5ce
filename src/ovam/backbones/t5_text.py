"""T5 text encoder of PixArt: text in lower case, masked padding, an end token but no start token."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ovam.backbones.clip_text import check_tokens, encoder_name
from ovam.backbones.learned import added_names
from ovam.backbones.offload import device_of
from ovam.backbones.unknown import meaningless, warn_of_unknown
from ovam.prompt import locate, parse, phrase
from ovam.trace.as_read import Offsets, only_words_read, positions_as_typed, without_padding
from ovam.trace.text_side import Space, TokenEmbedding

_GAP = "▁"
"""T5's sign for the space before a word; it can be a separate token, before words that are split into pieces."""


class T5Text:
    """A T5 tokenizer and encoder; gives the hidden states that a denoiser reads.

    Padding is masked in the encoder and the denoiser and gets no attention, so prompts have no `<pad>` tokens here.

    Args:
        tokenizer: A fast tokenizer.
        encoder: The text encoder.
        limit: Maximum number of tokens of a text.
        read: Tokens that a run read, by text; these texts are not cleaned or tokenized again.
    """

    def __init__(
        self, tokenizer: Any, encoder: Any, limit: int, read: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.tokenizer, self.encoder, self.limit, self.read = tokenizer, encoder, limit, read or {}

    @property
    def space(self) -> Space:
        return self.space_in(torch.float32)

    def space_in(self, dtype: torch.dtype) -> Space:
        return Space(encoder_name(self.encoder, dtype), "last", self.encoder.config.d_model)

    @torch.no_grad()
    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """See `TextReader.embed`; with `padded`, the encoder also runs over the masked padding, as in the pipeline.

        Then the vectors equal the pipeline's bit by bit. Without it they differ only by rounding.
        """
        added = added_names(self.tokenizer)
        plain, units = phrase(text, added) if as_phrase else parse(text, added)
        own, offsets = self._tokens(plain)
        count, length = len(own), self.limit if padded else len(own)
        ids = torch.full((1, length), self.tokenizer.pad_token_id)
        ids[0, :count] = torch.tensor(own)
        mask = (torch.arange(length) < count).long()[None]
        device = device_of(self.encoder)
        hidden = self.encoder(ids.to(device), attention_mask=mask.to(device)).last_hidden_state[0, :count]
        tokens = self.tokenizer.convert_ids_to_tokens(own)
        names = [
            token if token == _GAP else plain[start:stop].lower()
            for token, (start, stop) in zip(tokens[:-1], offsets[:-1], strict=True)
        ]
        prompt = only_words_read(locate(plain, units, [*names, "<end>"], offsets))
        warn_of_unknown(prompt.spans, *meaningless(self.tokenizer, own))
        return TokenEmbedding(hidden.float(), prompt, self.space)

    def check_length(self, text: str) -> None:
        self._tokens(text)

    def _tokens(self, plain: str) -> tuple[list[int], list[Offsets]]:
        """Return the tokens that the pipeline reads, and their positions in the text as typed."""
        lowered = plain.lower()
        blanks = len(lowered) - len(lowered.lstrip())
        encoded = self.tokenizer(lowered.strip(), return_offsets_mapping=True, truncation=False, verbose=False)
        if plain not in self.read:
            check_tokens(lowered.strip(), encoded.offset_mapping, self.limit)
        typed = [i for i, letter in enumerate(plain) for _ in letter.lower()][blanks:]  # "İ" becomes two
        offsets = [
            (typed[start], typed[stop - 1] + 1) if stop > start else (0, 0) for start, stop in encoded.offset_mapping
        ]
        if plain not in self.read:
            return list(encoded.input_ids), offsets
        read = without_padding(self.tokenizer, self.read[plain])
        return read, positions_as_typed(read, encoded.input_ids, offsets)
