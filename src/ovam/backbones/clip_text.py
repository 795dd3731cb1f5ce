"""Words as CLIP text encoders read them: tokens, spans by character offsets, vectors, and their space."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from ovam.backbones.as_read import own_tokens, places_of, without_unread
from ovam.backbones.base import TextReader
from ovam.backbones.learned import Offsets, added_names, with_all_vectors
from ovam.backbones.offload import device_of, marks, real_weights, unwrapped
from ovam.calls import Half
from ovam.errors import NoTextEncoderError, PromptTooLongError, SpaceMismatchError, UnsupportedPipelineError
from ovam.phrases import embed_phrases
from ovam.prompt import AttributionPrompt, Unit, locate, parse, phrase
from ovam.shapes import Embedding, Key
from ovam.text_side import Space, TokenEmbedding

CAPTION = "caption_projection"
"""PixArt's module between text encoder and blocks; beginning of its weights' names in `StaticText.projections`."""
_AT_ONCE = 32
"""Texts in one run of an encoder."""

log = logging.getLogger("ovam")
_hashes: WeakKeyDictionary[Any, tuple[object, str]] = WeakKeyDictionary()


def fingerprint(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> str:
    """Hash of named weights, the same for float32 and float16 copies of one model: 16 hexadecimal digits.

    Args:
        tensors: The weights.
        dtype: Type to round them to first; bfloat16 gives the hash of the model's bfloat16 copy.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        rounded = tensors[name].detach().to(dtype) if dtype == torch.bfloat16 else tensors[name].detach()
        digest.update(rounded.to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def encoder_name(encoder: Any, dtype: torch.dtype = torch.float32) -> str:
    """Class of an encoder and hash of its weights as they stand, rounded to `dtype`; see `ovam.trace.Space`.

    A compiled encoder is named as it is without its wrapper: words are read alike. The hash is computed again only
    when the weights have changed.
    """
    encoder = unwrapped(encoder)
    if dtype == torch.bfloat16:
        return f"{type(encoder).__name__}:{fingerprint(real_weights(encoder), dtype)}"
    state, kept = marks(encoder), _hashes.get(encoder)
    if kept is None or kept[0] != state:
        _hashes[encoder] = kept = (state, fingerprint(real_weights(encoder)))
    return f"{type(encoder).__name__}:{kept[1]}"


def check_tokens(plain: str, offsets: Sequence[Offsets], limit: int) -> None:
    """Whether a text encoder reads all tokens of a text.

    Args:
        plain: The text.
        offsets: Of each token its first character and its end.
        limit: Most tokens it reads.

    Raises:
        PromptTooLongError: it does not.
    """
    count = len(offsets)
    if count <= limit:
        return
    cut = plain[offsets[limit - 1][0] :]
    raise PromptTooLongError(
        f"prompt {plain[:40]!r}... has {count} tokens, special ones included, but the text encoder reads "
        f"{limit}: {cut!r} would be cut; shorten it by {count - limit} tokens or ask for its parts one by one"
    )


class ClipText:
    """A CLIP tokenizer and text encoder, asked for the hidden states that a denoiser reads.

    `layer` is `last`; or `skip-N`, N layers below the last and normalised like it (Stable Diffusion with clip-skip);
    or `hidden-N`, the N-th hidden state from the end as it is (SDXL reads `hidden-2`). `read` are the tokens that a run
    read of its texts, which are not cut into tokens again.
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
        return replace(found, prompt=without_unread(found.prompt))

    def embed_all(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """As `embed`, with the words of which the run read nothing."""
        added = added_names(self.tokenizer)
        read = phrase(text, added) if as_phrase else parse(text, added)
        return self._embedded([self._located(*read, padded=padded)])[0]

    def embed_phrases(self, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]:
        """See `ovam.phrases.ReadsMany`."""
        added = added_names(self.tokenizer)
        read = [self._located(*phrase(text, added), padded=padded) for text in phrases]
        return [found for i in range(0, len(read), _AT_ONCE) for found in self._embedded(read[i : i + _AT_ONCE])]

    def _located(self, plain: str, units: Sequence[Unit], *, padded: bool) -> tuple[list[int], AttributionPrompt]:
        """Token numbers of a text, and which of its tokens are each unit's."""
        ids, offsets = self._tokens(plain)
        padding = self.limit - len(ids) if padded else 0
        inside = [plain[start:stop].lower() for start, stop in offsets[1:-1]]  # CLIP reads lower case
        names = ["<start>", *inside, "<end>", *["<pad>"] * padding]
        prompt = locate(plain, units, names, [*offsets, *[(0, 0)] * padding])
        return [*ids, *[self.tokenizer.pad_token_id] * padding], prompt

    def _embedded(self, texts: Sequence[tuple[list[int], AttributionPrompt]]) -> list[TokenEmbedding]:
        """Texts of one run of the encoder; the shorter ones are filled up at their end, which none of them reads."""
        longest, space = max(len(ids) for ids, _ in texts), self.space
        rows = [[*ids, *[self.tokenizer.pad_token_id] * (longest - len(ids))] for ids, _ in texts]
        states = self._hidden(torch.tensor(rows))
        return [
            TokenEmbedding(found[: len(ids)], prompt, space) for found, (ids, prompt) in zip(states, texts, strict=True)
        ]

    def check_length(self, text: str) -> None:
        self._tokens(text)

    def _tokens(self, plain: str) -> tuple[list[int], list[Offsets]]:
        """Tokens of the text as the pipeline reads it, and their places."""
        encoded = self.tokenizer(plain, return_offsets_mapping=True, truncation=False, verbose=False)
        ids, offsets = with_all_vectors(self.tokenizer, plain, encoded)
        if plain in self.read:
            read = own_tokens(self.tokenizer, self.read[plain])
            return read, places_of(read, ids, offsets)
        check_tokens(plain, offsets, self.limit)
        return ids, offsets

    @torch.no_grad()
    def _hidden(self, ids: Tensor) -> Tensor:
        """What the pipeline hands to its denoiser, (text, token, width).

        CLIP is causal, so leaving padding out changes no token.
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
    """CLIP encoders side by side: each reads the whole text, and their vectors are joined along the channels."""

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
            UnsupportedPipelineError: the tokenizers cut the text into other tokens, which no position joins.
        """
        read = [part.embed_all(text, as_phrase=as_phrase, padded=padded) for part in self.parts]
        found = self._joined(text, read)
        return replace(found, prompt=without_unread(found.prompt))

    def embed_phrases(self, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]:
        """See `ovam.phrases.ReadsMany`; it raises what `embed` does."""
        of_parts = [part.embed_phrases(phrases, padded=padded) for part in self.parts]
        return [self._joined(text, read) for text, *read in zip(phrases, *of_parts, strict=True)]

    def _joined(self, text: str, read: Sequence[TokenEmbedding]) -> TokenEmbedding:
        if any(embedding.prompt != read[0].prompt for embedding in read):
            cuts = " and ".join(str(len(embedding.prompt.tokens)) for embedding in read)
            raise UnsupportedPipelineError(
                f"the tokenizers of this pipeline cut {text[:40]!r} in different ways, into {cuts} tokens: expected "
                "the same tokens of each, as its text encoders' vectors are joined token by token; load added tokens "
                "into every tokenizer"
            )
        vectors = torch.cat([embedding.vectors.to(read[0].vectors.device) for embedding in read], dim=-1)
        return TokenEmbedding(vectors, read[0].prompt, self.space)

    def check_length(self, text: str) -> None:
        for part in self.parts:
            part.check_length(text)


@runtime_checkable
class Source(Protocol):
    """Where the keys of a block came from."""

    def still_gives(self, matrix: Tensor, bias: Tensor | None) -> bool:
        """Whether it would give the same projection today."""
        ...


class StaticText:
    """Text side of models whose keys depend on the text alone: `to_k` of the text encoder's output.

    Holds its own copy of the weights on that way, so that a trace answers with those it ran with. Without
    `reader`, as when read from a file, it takes embeddings but no texts.

    Attributes:
        projections: Of each block its matrix (head * head_dim, width) by the block's name, and its bias, where it has
            one, by that name and `.bias`. Where all blocks read the text through one projection with a GELU between
            two layers (PixArt), the four tensors of that, `caption_projection.linear_1.weight` and so on.
        heads: Number of heads by block.
        space: Where the vectors live that enter.
    """

    kind: Literal["static"] = "static"

    def __init__(
        self,
        projections: Mapping[str, Tensor],
        heads: Mapping[str, int],
        reader: TextReader | None,
        space: Space | None = None,
        sources: "Mapping[str, Source] | None" = None,
    ) -> None:
        self.projections, self.heads, self.reader = dict(projections), dict(heads), reader
        self._sources = dict(sources or {})
        self._encoder = None if reader is None else reader.space  # now, while the weights are those of the run
        found = space or self._encoder
        assert found is not None  # one of the two is always given
        self.space = found

    def projections_of(self, blocks: Iterable[str]) -> dict[str, Tensor]:
        """The weights that the keys of these blocks need."""
        names = set(blocks)
        return {
            name: weight
            for name, weight in self.projections.items()
            if name.startswith(CAPTION) or name.removesuffix(".bias") in names
        }

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """See `TextReader.embed`.

        Raises:
            NoTextEncoderError: the trace came from a file and no text encoder was given.
            SpaceMismatchError: the text encoder's weights were changed since.
        """
        return replace(self._checked(text).embed(text, as_phrase=as_phrase, padded=padded), space=self.space)

    def embed_phrases(self, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]:
        """See `ovam.phrases.ReadsMany`; it raises what `embed` does."""
        reader = self._checked(", ".join(phrases))
        return [replace(found, space=self.space) for found in embed_phrases(reader, phrases, padded=padded)]

    def _checked(self, text: str) -> TextReader:
        """The reader, whose encoder is still that of the run."""
        if self.reader is None:
            raise NoTextEncoderError(
                f"this trace was loaded without a text encoder and can't read {text!r}: load it with "
                "Trace.load(path, text=pipe), with a model folder in place of pipe, or ask with embeddings"
            )
        if self.reader.space != self._encoder:
            raise SpaceMismatchError(
                f"the text encoder was changed since the run, from {self._encoder} to {self.reader.space}: expected "
                "the weights the run was made with; take adapters and training back, or run the pipeline again"
            )
        return self.reader

    def keys(self, embedding: Embedding, block: str, call: int, half: Half = "cond") -> Key:
        """`to_k` of the vectors, split into heads; float32, the same at every call and in both halves."""
        if embedding.shape[-1] != self.space.width:
            raise SpaceMismatchError(
                f"vectors of width {embedding.shape[-1]} can't become keys of block {block!r}, which takes "
                f"{self.space.width}: make them with this trace's own text side, trace.text.embed(...)"
            )
        self._tell_of_change(block)
        vectors = embedding.to(self.projections[block].device).float()
        if f"{CAPTION}.linear_1.weight" in self.projections:
            hidden = F.gelu(self._linear(vectors, f"{CAPTION}.linear_1", ".weight"), approximate="tanh")
            vectors = self._linear(hidden, f"{CAPTION}.linear_2", ".weight")
        keys = self._linear(vectors, block)
        return keys.unflatten(-1, (self.heads[block], -1)).transpose(0, 1)

    def _tell_of_change(self, block: str) -> None:
        """Say once that the pipeline has other keys by now; these are still those of the run."""
        source = self._sources.get(block)
        if source is None or source.still_gives(self.projections[block], self.projections.get(f"{block}.bias")):
            return
        self._sources.clear()
        log.warning(
            "the key projection of block %r was changed since the run, by an adapter or by training: this trace "
            "answers with the one it ran with; capture another run for the model as it is now",
            block,
        )

    def _linear(self, vectors: Tensor, name: str, ending: str = "") -> Tensor:
        """One layer as torch applies it, so that a float32 model's own numbers come out bit by bit."""
        bias = self.projections.get(f"{name}.bias")
        return F.linear(vectors, self.projections[name + ending].float(), None if bias is None else bias.float())
