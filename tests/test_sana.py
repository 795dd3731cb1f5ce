"""The guide to adding a backbone, followed: Sana passes the contract without a line in the library."""

import pytest
import torch
from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
from transformers import Gemma2Config, Gemma2Model

import tiny
from ovam.backbones import registry
from ovam.testing import BackboneContract
from sana import SanaBackbone


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(registry, "BACKBONES", (SanaBackbone, *registry.BACKBONES))


def make_sana():
    torch.manual_seed(0)
    words = tiny.t5_tokenizer()
    encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            pad_token_id=words.pad_token_id,
        )
    ).eval()
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
    ).eval()
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        upsample_block_type="interpolate",
        downsample_block_type="stride_conv",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = SanaPipeline(words, encoder, vae, transformer, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return tiny.sharpen(pipe, 8.0)


class TestSana(BackboneContract):
    def make_pipe(self):
        return make_sana()

    def run_arguments(self):
        return {
            "prompt": "a dog on the grass",
            "num_inference_steps": 3,
            "height": 32,
            "width": 32,
            "use_resolution_binning": False,
            "clean_caption": False,
            "complex_human_instruction": None,
        }
