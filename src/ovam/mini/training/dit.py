"""mini-dit's denoiser: a transformer of Stable Diffusion 3's kind, on mini's autoencoder, world and text tower.

Image and text share the attention. Flow matching (Esser et al., arXiv:2403.03206): the latent and noise are mixed in
straight lines and the velocity is told. The share of noise is drawn evenly: by that paper's law, which favours the
middle, one picture in seventy has less than a tenth of noise, where mini's words are best looked for.

As with mini's UNet, half of the samples are told words alone: neither end, padding, the rows of T5 nor the pooled
text, each of which holds the whole caption or nothing. (Stable Diffusion 3 leaves out each of its text encoders in
nearly half of the samples.)

Its pipeline wants two CLIP encoders and, to be loaded from a folder alone, T5. The first CLIP is mini's tower, with the
identity for a projection; the second is a blank, narrow one whose weights and vectors are zeros, and so is T5, whose
tokenizer finds no token in any text: the denoiser is handed 256 rows of zeros, as where a pipeline has no T5.
"""

from collections.abc import Mapping
from typing import ClassVar, TypeVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from tokenizers import Regex, Tokenizer
from tokenizers.models import Unigram
from tokenizers.normalizers import Replace
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from ovam.mini.training.alignment import WEIGHT, Alignment
from ovam.mini.training.denoiser import Objective, Phase
from ovam.mini.training.joint import T5_ROWS, JointMatching, column_bias
from ovam.mini.training.loop import DEVICE, half_precision
from ovam.mini.training.text_tower import PictureTower
from ovam.mini.training.texts import Texts

PHASES = (Phase(1700, ((64, 64),)), Phase(900, ((128, 32),)))
HEADS, HEAD_DIM, LAYERS, PATCH = 6, 32, 6, 2
TOWER_WIDTH, BLANK_WIDTH = 192, 8
Encoder = TypeVar("Encoder", bound=nn.Module)
_ALIGNED = 2  # the block whose output is aligned: the third of six


def build_dit() -> SD3Transformer2DModel:
    """With normalised queries and keys, as 3.5 has; each block begins as the identity (arXiv:2212.09748)."""
    width = HEADS * HEAD_DIM
    model = SD3Transformer2DModel(
        sample_size=32,
        patch_size=PATCH,
        in_channels=4,
        out_channels=4,
        num_layers=LAYERS,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=TOWER_WIDTH + BLANK_WIDTH,
        caption_projection_dim=width,
        pooled_projection_dim=TOWER_WIDTH + BLANK_WIDTH,
        pos_embed_max_size=32 // PATCH,
        qk_norm="rms_norm",
    )
    modulations = [norm.linear for block in model.transformer_blocks for norm in (block.norm1, block.norm1_context)]
    for layer in (*modulations, model.norm_out.linear, model.proj_out):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return model


def build_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Noise levels as trained on, not shifted towards noise: the latents are small."""
    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def with_projection(tower: CLIPTextModel) -> CLIPTextModelWithProjection:
    """The tower as Stable Diffusion 3 takes it: its end token, as it is, is the pooled text."""
    encoder = CLIPTextModelWithProjection(tower.config)
    encoder.text_model.load_state_dict(getattr(tower, "text_model", tower).state_dict())
    torch.nn.init.eye_(encoder.text_projection.weight)
    return encoder.eval()


def blank_encoder(tower: CLIPTextModel) -> CLIPTextModelWithProjection:
    """An encoder of as many layers for the same tokens, all of whose weights are zeros."""
    narrow = dict.fromkeys(("hidden_size", "intermediate_size", "projection_dim"), BLANK_WIDTH)
    config = CLIPTextConfig(**(tower.config.to_dict() | narrow | {"num_attention_heads": 1}))
    encoder = CLIPTextModelWithProjection(config)
    return _blank(encoder)


def blank_t5() -> T5EncoderModel:
    """A T5 of the width that the denoiser reads, all of whose weights are zeros."""
    sizes = dict.fromkeys(("vocab_size", "d_kv", "d_ff", "num_layers", "num_heads"), 1)
    return _blank(T5EncoderModel(T5Config(d_model=TOWER_WIDTH + BLANK_WIDTH, eos_token_id=0, **sizes)))


def blank_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that reads nothing: it finds no token in any text."""
    nothing = Tokenizer(Unigram([("<pad>", 0.0)], unk_id=0))
    nothing.normalizer = Replace(Regex(r"[\s\S]+"), "")
    return PreTrainedTokenizerFast(tokenizer_object=nothing, pad_token="<pad>", model_max_length=T5_ROWS)


def _blank(encoder: Encoder) -> Encoder:
    for value in encoder.parameters():
        torch.nn.init.zeros_(value)
    return encoder.eval()


class FlowMatching(Objective):
    """The transformer, told by the tower's last hidden states but one and its pooled text."""

    weights: ClassVar[Mapping[str, float]] = {"loss": 1.0, "misaligned": WEIGHT, "mismatched": 1.0}

    def __init__(self, encoder: CLIPTextModel, tower: PictureTower) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.model = build_dit().to(DEVICE)
        self.alignment = Alignment(tower, HEADS * HEAD_DIM).to(DEVICE)
        self.matching = JointMatching(self.model)
        self._features = torch.empty(0)
        self.model.transformer_blocks[_ALIGNED].register_forward_hook(self._keep)

    def _keep(self, module: object, inputs: object, output: tuple[Tensor, Tensor]) -> None:
        self._features = output[1]  # of the image; those of the text come first

    def losses(self, clean: Tensor, pictures: Tensor, texts: Texts) -> dict[str, Tensor]:
        attended = texts.attended.to(DEVICE)
        rows, pooled = self._told(texts.ids.to(DEVICE), attended)
        grid = (clean.shape[2] // PATCH, clean.shape[3] // PATCH)
        bias = column_bias(attended, grid[0] * grid[1])
        noise, sigmas = torch.randn_like(clean), torch.rand(len(clean), device=DEVICE)
        noisy = clean.lerp(noise, sigmas.view(-1, 1, 1, 1))
        signal = (1 - sigmas).square() / ((1 - sigmas).square() + sigmas.square())
        with half_precision():
            options = {"attention_mask": bias}
            velocity = self.model(noisy, rows, pooled, 1000 * sigmas, joint_attention_kwargs=options).sample
            features = self._features.transpose(1, 2).unflatten(2, grid)
            misaligned = self.alignment.loss(features, pictures)
            mismatched = self.matching.loss(texts.belongs.to(DEVICE), bias, signal)
        wrong = (velocity.float() - (noise - clean)).square().mean()
        return {"loss": wrong, "misaligned": misaligned, "mismatched": mismatched}

    @torch.no_grad()
    def _told(self, ids: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """Text rows, the last one for all of T5's, and the pooled text, which is 0 where nothing but words is told."""
        seen = self.encoder(ids, output_hidden_states=True)
        pooled = seen.pooler_output * attended[:, -1:]
        return F.pad(seen.hidden_states[-2], (0, BLANK_WIDTH, 0, 1)), F.pad(pooled, (0, BLANK_WIDTH))
