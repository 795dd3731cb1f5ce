"""Words as a CLIP text encoder reads them: tokens, spans by character offsets, vectors, and their space."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ovam.errors import NoTextEncoderError, PromptTooLongError, SpaceMismatchError
from ovam.prompt import locate, parse, phrase
from ovam.shapes import Embedding, Key
from ovam.trace import Half, Space, TokenEmbedding

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


def _encoder_hash(encoder: Any) -> str:
    """Hash of an encoder's weights as they stand; computed again only when they have changed."""
    weights = dict(encoder.state_dict())
    state = tuple((w.data_ptr(), 0 if w.is_inference() else w._version, w.dtype) for w in weights.values())
    kept = _hashes.get(encoder)
    if kept is None or kept[0] != state:
        _hashes[encoder] = kept = (state, fingerprint(weights))
    return kept[1]


class ClipText:
    """Tokenizer and text encoder of a pipeline, asked for the hidden states that its denoiser reads."""

    def __init__(self, tokenizer: Any, encoder: Any, clip_skip: int | None = None) -> None:
        self.tokenizer, self.encoder, self.clip_skip = tokenizer, encoder, clip_skip

    @property
    def space(self) -> Space:
        name = f"{type(self.encoder).__name__}:{_encoder_hash(self.encoder)}"
        layer = "last" if self.clip_skip is None else f"skip-{self.clip_skip}"
        return Space(name, layer, self.encoder.config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the encoder's weights."""
        return next(self.encoder.parameters()).dtype

    def is_copy_of(self, space: Space, dtype: torch.dtype) -> bool:
        """Whether the encoder, rounded to `dtype`, is the one that `space` names."""
        if dtype != torch.bfloat16:
            return self.space == space
        name = f"{type(self.encoder).__name__}:{fingerprint(dict(self.encoder.state_dict()), dtype)}"
        return replace(self.space, encoder=name) == space

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
        self.projections, self.heads, self.clip = dict(projections), dict(heads), clip
        self._encoder = None if clip is None else clip.space  # now, while the weights are those of the run
        found = space or self._encoder
        assert found is not None  # one of the two is always given
        self.space = found

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """See `ClipText.embed`.

        Raises:
            NoTextEncoderError: the trace came from a file and no text encoder was given.
            SpaceMismatchError: the text encoder's weights were changed since.
        """
        if self.clip is None:
            raise NoTextEncoderError(
                f"this trace was loaded without a text encoder and can't read {text!r}: load it with "
                "Trace.load(path, text=pipe), with a model folder in place of pipe, or ask with embeddings"
            )
        if self.clip.space != self._encoder:
            raise SpaceMismatchError(
                f"the text encoder was changed since the run, from {self._encoder} to {self.clip.space}: expected the "
                "weights the run was made with; take adapters and training back, or run the pipeline again"
            )
        return replace(self.clip.embed(text, as_phrase=as_phrase, padded=padded), space=self.space)

    def keys(self, embedding: Embedding, block: str, call: int, half: Half = "cond") -> Key:
        """`to_k` of the vectors, split into heads; float32, the same at every call and in both halves."""
        projection = self.projections[block]
        if embedding.shape[-1] != projection.shape[1]:
            raise SpaceMismatchError(
                f"vectors of width {embedding.shape[-1]} can't become keys of block {block!r}, which takes "
                f"{projection.shape[1]}: make them with this trace's own text side, trace.text.embed(...)"
            )
        keys = embedding.to(projection.device).float() @ projection.float().T
        return keys.unflatten(-1, (self.heads[block], -1)).transpose(0, 1)
