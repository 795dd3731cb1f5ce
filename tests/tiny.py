"""Tiny random pipelines, built offline in a second, with attention sharp enough to show errors."""

import json
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WORDS = (
    "a an the of on in and with photo photograph picture dog cat grass sky tree car person boat sea red blue "
    "hot monkey hat mouth lawn sand"
).split()

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _byte_letters() -> list[str]:
    """The 256 letters of byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


def tokenizer(pad_token: str = "<|endoftext|>", max_length: int = 77) -> CLIPTokenizer:
    """A real byte-level BPE whose known words are one token each; unknown words split into letters."""
    letters = _byte_letters()
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
            if "".join(pair) not in vocabulary:
                vocabulary.append("".join(pair))
            parts = ["".join(pair), *parts[2:]]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocabulary)},
        merges=merges,
        pad_token=pad_token,
        model_max_length=max_length,
    )


def t5_tokenizer() -> T5Tokenizer:
    """A real Unigram tokenizer whose known words are one token each; unknown words split into letters."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    known = [("▁" + word, -3.0) for word in WORDS]
    return T5Tokenizer(vocab=[*special, *known, *((chr(code), -8.0) for code in range(33, 127))], extra_ids=0)


def t5_encoder(words: T5Tokenizer, width: int = 32) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(words),
        d_model=width,
        d_kv=8,
        d_ff=37,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def text_encoder(words: CLIPTokenizer, kind: Any = CLIPTextModel, **changes: object) -> Any:
    config = {
        "vocab_size": len(words),
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "max_position_embeddings": 77,
        "projection_dim": 32,
    }
    return kind(CLIPTextConfig(**{**config, **changes})).eval()


def autoencoder(**changes: object) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=32,
        **changes,
    )


def sharpen(pipe: Any, factor: float = 12.0) -> Any:
    """Scale queries and keys: at random weights attention is uniform and hides every error."""
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    with torch.no_grad():
        for module in denoiser.modules():
            if type(module).__name__ == "Attention" and module.is_cross_attention:
                module.to_q.weight *= factor
                module.to_k.weight *= factor
    return pipe


def _pipeline(unet: UNet2DConditionModel, words: CLIPTokenizer, encoder: CLIPTextModel, **scheduler: object):
    pipe = StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=encoder,
        tokenizer=words,
        unet=unet,
        scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return sharpen(pipe)


def sd1(seed: int = 0) -> StableDiffusionPipeline:
    """Stable Diffusion 1 in small: three levels, the same number of heads everywhere."""
    torch.manual_seed(seed)
    words = tokenizer()
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        norm_num_groups=4,
        block_out_channels=(8, 16, 16),
        attention_head_dim=2,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    return _pipeline(unet, words, text_encoder(words))


def sd2(seed: int = 0) -> StableDiffusionPipeline:
    """Stable Diffusion 2 in small: heads differ by level, linear projections, padding by '!', v-prediction."""
    torch.manual_seed(seed)
    words = tokenizer(pad_token="!")
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        norm_num_groups=4,
        block_out_channels=(8, 16),
        attention_head_dim=(2, 4),
        cross_attention_dim=32,
        use_linear_projection=True,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    encoder = text_encoder(words, hidden_act="gelu")
    return _pipeline(unet, words, encoder, prediction_type="v_prediction")


def sdxl(seed: int = 0, **options: object) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL in small: two text encoders of different widths, several transformer blocks a level."""
    torch.manual_seed(seed)
    words, words_2 = tokenizer(), tokenizer(pad_token="!")
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        norm_num_groups=4,
        block_out_channels=(8, 16),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=32 + 24,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
    )
    second = {"hidden_size": 24, "num_hidden_layers": 3, "hidden_act": "gelu", "projection_dim": 20}
    pipe = StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(words, num_hidden_layers=3),
        text_encoder_2=text_encoder(words_2, CLIPTextModelWithProjection, **second),
        tokenizer=words,
        tokenizer_2=words_2,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
        **options,
    )
    pipe.set_progress_bar_config(disable=True)
    return sharpen(pipe)


def _pixart(kind: Any, seed: int, **transformer: object) -> Any:
    torch.manual_seed(seed)
    words = t5_tokenizer()
    pipe = kind(
        tokenizer=words,
        text_encoder=t5_encoder(words),
        vae=autoencoder(),
        transformer=PixArtTransformer2DModel(
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
            **transformer,
        ),
        scheduler=DPMSolverMultistepScheduler(**BETAS),
    )
    pipe.set_progress_bar_config(disable=True)
    return sharpen(pipe)


def pixart_alpha(seed: int = 0) -> PixArtAlphaPipeline:
    """PixArt alpha in small, with the size and proportions of the picture as conditions, as at 1024 pixels."""
    return _pixart(PixArtAlphaPipeline, seed, sample_size=128)


def pixart_sigma(seed: int = 0, sample_size: int = 16) -> PixArtSigmaPipeline:
    """PixArt Sigma in small: no conditions besides the text, of which it reads more."""
    return _pixart(PixArtSigmaPipeline, seed, sample_size=sample_size)


def _flow_autoencoder() -> AutoencoderKL:
    return autoencoder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5)


def sharpen_joint(transformer: torch.nn.Module, query: float, text: float) -> None:
    """Scale image queries and text keys, in their norms where there are such: a norm undoes a scaling before it.

    The image's own keys stay small, so that the text gets a good share of the attention. Blocks of a single stream
    have one norm for both, whose scaling sharpens either.
    """
    with torch.no_grad():
        for name, module in transformer.named_modules():
            if not name.endswith(".attn"):
                continue
            (module.to_q if module.norm_q is None else module.norm_q).weight *= query
            added = getattr(module, "norm_added_k", None)
            single = module.added_kv_proj_dim is None
            (module.norm_k if single else module.add_k_proj if added is None else added).weight *= text


def sd3(seed: int = 0, *, newer: bool = False, with_t5: bool = True) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3 in small, or `newer` 3.5: normalised queries and keys, dual attention layers."""
    torch.manual_seed(seed)
    words, second, third = tokenizer(), tokenizer(pad_token="!"), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=72,  # wider than both CLIP encoders: the rest is zeros
        pooled_projection_dim=64,
        pos_embed_max_size=16,
        qk_norm="rms_norm" if newer else None,
        dual_attention_layers=(0, 1) if newer else (),
    ).eval()
    sharpen_joint(transformer, *((5.0, 3.0) if newer else (10.0, 5.0)))
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_flow_autoencoder(),
        text_encoder=text_encoder(words, CLIPTextModelWithProjection),
        tokenizer=words,
        text_encoder_2=text_encoder(second, CLIPTextModelWithProjection, hidden_act="gelu"),
        tokenizer_2=second,
        text_encoder_3=t5_encoder(third, 72) if with_t5 else None,
        tokenizer_3=third if with_t5 else None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux(seed: int = 0) -> FluxPipeline:
    """FLUX.1 in small: blocks of two streams and of one, rotary embedding, embedded guidance."""
    torch.manual_seed(seed)
    words, second = tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=40,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
    ).eval()
    sharpen_joint(transformer, 6.0, 3.0)
    pipe = FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_flow_autoencoder(),
        text_encoder=text_encoder(words),
        tokenizer=words,
        text_encoder_2=t5_encoder(second, 40),
        tokenizer_2=second,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def mini_side() -> int:
    """Side of the embedded model's pictures: each level of the autoencoder but one halves it to that of the latents."""
    from ovam.models import mini_folder  # the shape run must see ovam imported after this file

    unet, vae = (json.loads((mini_folder() / part / "config.json").read_text()) for part in ("unet", "vae"))
    return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
