"""Words as a CLIP text encoder reads them: tokens, spans by character offsets, vectors, and their space."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from ovam.errors import NoTextEncoderError, PromptTooLongError, SpaceMismatchError
from ovam.prompt import locate, parse, phrase
from ovam.shapes import Embedding, Key
from ovam.trace import Space, TokenEmbedding


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hash of named weights, the same for float32 and float16 copies of one model: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class ClipText:
    """Tokenizer and text encoder of a pipeline, asked for the hidden states that its denoiser reads."""

    def __init__(self, tokenizer: Any, encoder: Any, clip_skip: int | None = None) -> None:
        self.tokenizer, self.encoder, self.clip_skip = tokenizer, encoder, clip_skip

    @cached_property
    def space(self) -> Space:
        weights = dict(self.encoder.state_dict())
        name = f"{type(self.encoder).__name__}:{fingerprint(weights)}"
        layer = "last" if self.clip_skip is None else f"skip-{self.clip_skip}"
        return Space(name, layer, self.encoder.config.hidden_size)

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """Hidden states of a text, float32, special tokens included.

        Raises:
            EmptyWordsError: the text has no word.
            PromptTooLongError: it has more tokens than the encoder reads; nothing is cut silently.
        """
        plain, units = phrase(text) if as_phrase else parse(text)
        encoded = self.tokenizer(plain, return_offsets_mapping=True, truncation=False, verbose=False)
        self._check_tokens(plain, encoded)
        padding = self.tokenizer.model_max_length - len(encoded.input_ids) if padded else 0
        ids = [*encoded.input_ids, *[self.tokenizer.pad_token_id] * padding]
        inside = [plain[start:stop].lower() for start, stop in encoded.offset_mapping[1:-1]]  # CLIP reads lower case
        names = ["<start>", *inside, "<end>", *["<pad>"] * padding]
        offsets = [*encoded.offset_mapping, *[(0, 0)] * padding]
        return TokenEmbedding(self._hidden(torch.tensor([ids])), locate(plain, units, names, offsets), self.space)

    @torch.no_grad()
    def _hidden(self, ids: Tensor) -> Embedding:
        """What the pipeline hands to its denoiser; CLIP is causal, so leaving padding out changes no token."""
        outputs = self.encoder(ids.to(self.encoder.device), output_hidden_states=self.clip_skip is not None)
        if self.clip_skip is None:
            return outputs.last_hidden_state[0].float()
        model = getattr(self.encoder, "text_model", self.encoder)
        return model.final_layer_norm(outputs.hidden_states[-(self.clip_skip + 1)])[0].float()

    def check_length(self, text: str) -> None:
        """Whether the encoder reads the whole text.

        Raises:
            PromptTooLongError: it does not.
        """
        self._check_tokens(text, self.tokenizer(text, return_offsets_mapping=True, truncation=False, verbose=False))

    def _check_tokens(self, plain: str, encoded: Any) -> None:
        limit = self.tokenizer.model_max_length
        count = len(encoded.input_ids)
        if count <= limit:
            return
        cut = plain[encoded.offset_mapping[limit - 1][0] :]
        raise PromptTooLongError(
            f"prompt {plain[:40]!r}... has {count} tokens, start and end included, but the text encoder reads "
            f"{limit}: {cut!r} would be cut; shorten it by {count - limit} tokens or ask for its parts one by one"
        )


class StaticText:
    """Text side of models whose keys depend on the text alone: `to_k` of the text encoder's output.

    Holds its own copy of the projections, so that a trace answers with the weights it ran with. Without
    `clip`, as when read from a file, it takes embeddings but no texts.
    """

    kind: Literal["static"] = "static"

    def __init__(
        self,
        projections: Mapping[str, Tensor],
        heads: Mapping[str, int],
        clip: ClipText | None,
        space: Space | None = None,
    ) -> None:
        self.projections, self.heads, self.clip, self._space = dict(projections), dict(heads), clip, space

    @property
    def space(self) -> Space:
        if self._space is None:
            assert self.clip is not None  # one of the two is always given
            self._space = self.clip.space
        return self._space

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """See `ClipText.embed`.

        Raises:
            NoTextEncoderError: the trace came from a file and no text encoder was given.
        """
        if self.clip is None:
            raise NoTextEncoderError(
                f"this trace was loaded without a text encoder and can't read {text!r}: load it with "
                "Trace.load(path, text=pipe), with a model folder in place of pipe, or ask with embeddings"
            )
        return self.clip.embed(text, as_phrase=as_phrase, padded=padded)

    def keys(self, embedding: Embedding, block: str, call: int) -> Key:
        """`to_k` of the vectors, split into heads; float32, the same at every call."""
        projection = self.projections[block]
        if embedding.shape[-1] != projection.shape[1]:
            raise SpaceMismatchError(
                f"vectors of width {embedding.shape[-1]} can't become keys of block {block!r}, which takes "
                f"{projection.shape[1]}: make them with this trace's own text side, trace.text.embed(...)"
            )
        keys = embedding.to(projection.device).float() @ projection.float().T
        return keys.unflatten(-1, (self.heads[block], -1)).transpose(0, 1)
