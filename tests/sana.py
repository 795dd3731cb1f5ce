"""A backbone of a family that the library does not ship, as docs/adding-a-backbone.md walks through it: Sana.

Its text is read by a language model, projected and normalised once, and met by cross attention in every block. Prompts
are read as they stand: run the pipeline with `complex_human_instruction=None`.
"""

from copy import deepcopy
from typing import ClassVar, Literal

import torch

from ovam.backbones.base import Backbone, BlockSpec
from ovam.backbones.clip_text import check_tokens, encoder_name
from ovam.backbones.common import halved, plain_denoiser, require_text, text_request
from ovam.backbones.cross_attention import block_spec, cross_attention, watch_queries
from ovam.backbones.offload import device_of
from ovam.prompt import locate, parse, phrase
from ovam.trace.text_side import Space, TokenEmbedding


class SanaBackbone(Backbone):
    """SanaTransformer2DModel with cross attention to a language model's hidden states."""

    pipelines: ClassVar[tuple[str, ...]] = ("SanaPipeline",)
    text_kind: ClassVar[Literal["static", "replayed"]] = "static"

    @property
    def side_multiple(self):
        return 32

    @property
    def denoiser(self):
        return plain_denoiser(self.pipe, "transformer")

    def blocks(self) -> dict[str, BlockSpec]:
        return {name: block_spec(name, module) for name, module in cross_attention(self.denoiser).items()}

    def grids(self, latent):
        patch = self.denoiser.config.patch_size
        return dict.fromkeys(cross_attention(self.denoiser), (latent[0] // patch, latent[1] // patch))

    def request(self, arguments, result, earlier):
        return text_request(arguments, result)

    def evaluation(self, arguments, request):
        return halved(self.pipe, arguments["hidden_states"], arguments["timestep"], request)

    def watch(self, names, report):
        return watch_queries(cross_attention(self.denoiser), names, report)

    def text_side(self, names, request=None):
        return SanaText(self.denoiser, names, self.reader())

    def reader(self, layer=None):
        require_text(self.pipe, "tokenizer", "text_encoder")
        return SanaReader(self.pipe.tokenizer, self.pipe.text_encoder)


class SanaReader:
    """From a text to the language model's hidden states; its attention is causal, so padding behind changes nothing."""

    limit = 300

    def __init__(self, tokenizer, encoder):
        self.tokenizer, self.encoder = tokenizer, encoder

    @property
    def space(self):
        return self.space_in(torch.float32)

    def space_in(self, dtype):
        return Space(encoder_name(self.encoder, dtype), "last", self.encoder.config.hidden_size)

    @torch.no_grad()
    def embed(self, text, *, as_phrase=False, padded=False):
        plain, units = phrase(text) if as_phrase else parse(text)
        encoded = self._tokens(plain)
        ids = torch.full((1, self.limit if padded else len(encoded.input_ids)), self.tokenizer.pad_token_id)
        count = len(encoded.input_ids)
        ids[0, :count] = torch.tensor(encoded.input_ids)
        mask = (torch.arange(ids.shape[1]) < count).long()[None]
        device = device_of(self.encoder)
        hidden = self.encoder(ids.to(device), attention_mask=mask.to(device))[0][0, :count]
        inside = [plain[start:stop].strip().lower() for start, stop in encoded.offset_mapping]
        names = [name or "<end>" for name in inside]
        return TokenEmbedding(hidden.float(), locate(plain, units, names, encoded.offset_mapping), self.space)

    def check_length(self, text):
        self._tokens(text)

    def _tokens(self, plain):
        encoded = self.tokenizer(plain.lower(), return_offsets_mapping=True, truncation=False, verbose=False)
        check_tokens(plain, encoded.offset_mapping, self.limit)
        return encoded


class SanaText:
    """Keys: one projection and one norm for all blocks, then each block's `to_k`; copies of them, as they stand now."""

    kind = "static"

    def __init__(self, transformer, names, reader):
        modules = {name: transformer.get_submodule(name) for name in names}
        self.caption, self.norm = _frozen(transformer.caption_projection), _frozen(transformer.caption_norm)
        self.layers = {name: _frozen(module.to_k) for name, module in modules.items()}
        self.heads = {name: module.heads for name, module in modules.items()}
        self.reader, self.space = reader, reader.space

    def embed(self, text, *, as_phrase=False, padded=False):
        return self.reader.embed(text, as_phrase=as_phrase, padded=padded)

    def keys(self, embedding, block, call, half="cond"):
        rows = self.norm(self.caption(embedding.float()[None]))[0]
        return self.layers[block](rows).unflatten(-1, (self.heads[block], -1)).transpose(0, 1)


def _frozen(module):
    return deepcopy(module).float().requires_grad_(False)
