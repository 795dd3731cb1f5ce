"""Tiny random pipelines, built offline in a second, with attention sharp enough to show errors."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

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


def text_encoder(words: CLIPTokenizer, **changes: object) -> CLIPTextModel:
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
    return CLIPTextModel(CLIPTextConfig(**{**config, **changes})).eval()


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=32,
    )


def sharpen(pipe: StableDiffusionPipeline, factor: float = 12.0) -> StableDiffusionPipeline:
    """Scale queries and keys: at random weights attention is uniform and hides every error."""
    with torch.no_grad():
        for module in pipe.unet.modules():
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
