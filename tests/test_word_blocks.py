"""Blocks that a UNet's config names are the default of a capture; "all" is every block but the middle one."""

import json
import logging

import pytest
from diffusers import UNet2DConditionModel

import ovam
import tiny
from ovam.backbones.unet_blocks import WORD_BLOCKS


@pytest.fixture
def pipe():
    return tiny.sd1()


def kept(pipe, **options):
    with ovam.capture(pipe, **options) as traces:
        pipe("a dog", num_inference_steps=1, height=32, width=32)
    return tuple(traces[0].blocks)


def test_the_config_s_blocks_are_the_default_and_all_are_all_but_the_middle_one(pipe):
    every = kept(pipe)
    assert every == kept(pipe, blocks="all")
    assert not any(name.startswith("mid_block") for name in every)
    first = every[0]
    pipe.unet.register_to_config(**{WORD_BLOCKS: ["up_blocks.1", first]})
    assert kept(pipe) == (first, *(name for name in every if name.startswith("up_blocks.1.")))
    assert kept(pipe, blocks="all") == every
    assert set(kept(pipe, blocks=["all", "mid_block"])) > set(every)


@pytest.mark.parametrize("value", [["up_blocks.99"], ["up_block"], [3], "up_blocks.1", 7, None, {}])
def test_what_names_no_block_is_no_choice(pipe, value):
    every = kept(pipe)
    pipe.unet.register_to_config(**{WORD_BLOCKS: value})
    assert kept(pipe) == every


def test_the_choice_travels_with_the_unet(pipe, tmp_path, caplog):
    pipe.unet.register_to_config(**{WORD_BLOCKS: ["up_blocks.1"]})
    pipe.unet.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())[WORD_BLOCKS] == ["up_blocks.1"]
    with caplog.at_level(logging.WARNING):
        loaded = UNet2DConditionModel.from_pretrained(tmp_path)
    assert loaded.config[WORD_BLOCKS] == ["up_blocks.1"]
    assert not caplog.records
