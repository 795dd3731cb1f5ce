"""Text sides of models whose keys depend on the text alone, and how they are stored in a trace file."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from ovam.errors import NoTextEncoderError, SpaceMismatchError
from ovam.header import made
from ovam.shapes import Embedding, Key
from ovam.tensor_file import fingerprint, type_name
from ovam.trace.as_read import tokens_read
from ovam.trace.calls import Half
from ovam.trace.header import damage_reported
from ovam.trace.phrases import embed_phrases
from ovam.trace.text_side import SavedText, Space, TextFile, TextReader, TokenEmbedding

CAPTION = "caption_projection"
"""Name of PixArt's module between text encoder and blocks. In `StaticText.projections` the names of its weights begin
with this name."""
PROJECTIONS_INSIDE = 32 * 2**20
"""A trace file stores the key projections if they have at most this many bytes; otherwise it refers to the model."""

log = logging.getLogger("ovam")


@runtime_checkable
class ProjectionSource(Protocol):
    """The layer from which a block's key projection was copied."""

    def still_has(self, matrix: Tensor, bias: Tensor | None) -> bool:
        """Return whether the layer still has this projection."""
        ...


class StaticText:
    """Text side of models whose keys depend on the text alone.

    A block makes its keys with one linear layer, its key projection (`to_k` in diffusers), from the text encoder's
    output. The text side has its own copy of the key projections, so that a trace always uses the weights of its run.
    Without a `reader`, as in a trace that was loaded without a text encoder, the text side accepts embeddings but no
    texts.

    Attributes:
        projections: Weights by name. The matrix of a block, of shape (head * head_dim, width), has the block's name.
            Its bias, if there is one, has this name with `.bias` added. In PixArt all blocks read the text through one
            more projection: two layers with a GELU between them. The names of its four tensors are
            `caption_projection.linear_1.weight` and so on.
        heads: Number of heads of each block, by the block's name.
        space: Space of the input vectors.
    """

    kind: Literal["static"] = "static"

    def __init__(
        self,
        projections: Mapping[str, Tensor],
        heads: Mapping[str, int],
        reader: TextReader | None,
        space: Space | None = None,
        sources: "Mapping[str, ProjectionSource] | None" = None,
    ) -> None:
        self.projections, self.heads, self.reader = dict(projections), dict(heads), reader
        self._sources = dict(sources or {})
        self._encoder = None if reader is None else reader.space  # read now, because the weights may change later
        found = space or self._encoder
        assert found is not None  # one of the two is always given
        self.space = found

    def projections_of(self, blocks: Iterable[str]) -> dict[str, Tensor]:
        """Return the weights that are needed for the keys of these blocks."""
        names = set(blocks)
        return {
            name: weight
            for name, weight in self.projections.items()
            if name.startswith(CAPTION) or name.removesuffix(".bias") in names
        }

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """Return the vectors of a text; see `TextReader.embed`.

        Raises:
            NoTextEncoderError: the trace came from a file and no text encoder was given.
            SpaceMismatchError: the text encoder's weights have changed since the run.
        """
        return replace(self._checked(text).embed(text, as_phrase=as_phrase, padded=padded), space=self.space)

    def embed_phrases(self, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]:
        """Return the vectors of several phrases; see `ovam.trace.phrases.ReadsMany`. Errors are as in `embed`."""
        reader = self._checked(", ".join(phrases))
        return [replace(found, space=self.space) for found in embed_phrases(reader, phrases, padded=padded)]

    def _checked(self, text: str) -> TextReader:
        """Return the reader, after a check that its encoder has the weights of the run."""
        if self.reader is None:
            raise NoTextEncoderError(
                f"this trace was loaded without a text encoder and can't read {text!r}: load it with "
                "Trace.load(path, text=pipe), where text can also be a model folder, or pass embeddings"
            )
        if self.reader.space != self._encoder:
            raise SpaceMismatchError(
                f"the text encoder was changed since the run, from {self._encoder} to {self.reader.space}: expected "
                "the weights the run was made with; restore these weights (remove adapters), or run the pipeline again"
            )
        return self.reader

    def keys(self, embedding: Embedding, block: str, call: int, half: Half = "cond") -> Key:
        """Return the keys of some vectors in one block, split into heads, in float32.

        The keys are made with the block's key projection; in PixArt the caption projection is applied first. The keys
        are the same at every call and in both halves of guidance.
        """
        if embedding.shape[-1] != self.space.width:
            raise SpaceMismatchError(
                f"vectors of width {embedding.shape[-1]} can't become keys of block {block!r}, which takes "
                f"{self.space.width}: make them with this trace's own text side, trace.text.embed(...)"
            )
        self._warn_of_change(block)
        vectors = embedding.to(self.projections[block].device).float()
        if f"{CAPTION}.linear_1.weight" in self.projections:
            hidden = F.gelu(self._linear(vectors, f"{CAPTION}.linear_1", ".weight"), approximate="tanh")
            vectors = self._linear(hidden, f"{CAPTION}.linear_2", ".weight")
        keys = self._linear(vectors, block)
        return keys.unflatten(-1, (self.heads[block], -1)).transpose(0, 1)

    def _warn_of_change(self, block: str) -> None:
        """Warn once if the pipeline's key projection has changed since the run.

        This object still uses its own copy, which has not changed.
        """
        source = self._sources.get(block)
        if source is None or source.still_has(self.projections[block], self.projections.get(f"{block}.bias")):
            return
        self._sources.clear()
        log.warning(
            "the key projection of block %r was changed since the run, by an adapter or by training: this trace "
            "still uses the key projection of its run; to use the changed model, capture a new run",
            block,
        )

    def _linear(self, vectors: Tensor, name: str, ending: str = "") -> Tensor:
        """Apply one layer with torch's own function, so that the results equal those of a float32 model exactly."""
        bias = self.projections.get(f"{name}.bias")
        return F.linear(vectors, self.projections[name + ending].float(), None if bias is None else bias.float())

    def saved(self, blocks: Iterable[str], texts: Sequence[str]) -> SavedText:
        """Return the text side for a trace file; the key projections are included unless they are large."""
        projections = self.projections_of(blocks)
        inside = sum(projection.nbytes for projection in projections.values()) <= PROJECTIONS_INSIDE
        read = tokens_read(self.reader, texts)
        about = {
            "kind": self.kind,
            "space": asdict(self.space),
            **({"read": read} if any(read) else {}),
            "dtype": type_name(next(iter(projections.values())).dtype) if projections else None,
            "projections": "inside" if inside else "by reference",
            "projections_hash": fingerprint(projections),
        }
        named = {f"projection/{name}": projection for name, projection in projections.items()}
        return SavedText(about, named if inside else {})


def static_text_of(file: TextFile, reader: TextReader | None = None) -> StaticText:
    """Return the text side of a file that stores the key projections; without a reader the text side accepts no texts.

    Raises:
        TraceFileError: the projections are damaged.
    """
    space, heads = made(Space, file.about["space"]), heads_in(file)
    projections = projections_in(file.tensors)
    with damage_reported(file.path, file.header):
        check_projections(projections, heads, space, file.about["projections_hash"])
    return StaticText(projections, heads, reader, space)


def heads_in(file: TextFile) -> dict[str, int]:
    """Return the number of heads of each block, by the block's name."""
    return {entry["name"]: int(entry["heads"]) for entry in file.header["blocks"]}


def projections_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the key projections that are stored in a file."""
    stored = [name for name in tensors if name.startswith("projection/")]
    return {name.removeprefix("projection/"): tensors[name] for name in stored}


def check_projections(
    projections: Mapping[str, Tensor], heads: Mapping[str, int], space: Space, expected_hash: str
) -> None:
    """Check types and shapes of the projections, and that their hash is the one in the header.

    The shapes must fit the number of heads of each block, and the width of the space.

    Raises:
        ValueError: a type, a shape or the hash is not the expected one.
    """
    for name, projection in projections.items():
        if projection.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"projection/{name} has type {projection.dtype}: expected float32, float16 or bfloat16")
    first, second = (f"{CAPTION}.{layer}" for layer in ("linear_1", "linear_2"))
    caption_layers = [first, second] if f"{first}.weight" in projections else []
    width = space.width
    for name in caption_layers:
        width = _check_layer(name, projections[f"{name}.weight"], projections.get(f"{name}.bias"), width, 1)
    for name, count in heads.items():
        _check_layer(name, projections[name], projections.get(f"{name}.bias"), width, count)
    if fingerprint(projections) != expected_hash:
        raise ValueError("the key projections are not those that were written")


def _check_layer(name: str, matrix: Tensor, bias: Tensor | None, width: int, heads: int) -> int:
    """Check that one layer accepts vectors of this width; return the width of its output."""
    if matrix.ndim != 2 or matrix.shape[0] % heads or matrix.shape[1] != width:
        raise ValueError(
            f"projection/{name} has shape {tuple(matrix.shape)}: expected a matrix for {heads} heads and vectors of "
            f"width {width}"
        )
    if bias is not None and bias.shape != matrix.shape[:1]:
        raise ValueError(f"projection/{name}.bias has shape {tuple(bias.shape)}, but its matrix {tuple(matrix.shape)}")
    return matrix.shape[0]
