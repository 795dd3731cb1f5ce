"""Pictures without a text are asked for every name: what their captions say, and that queries and keys learn it."""

import numpy as np
import pytest
import torch

import ovam
from ovam.mini.measures.asking import Asking
from ovam.mini.scenes import CLASSES, GROUNDS
from ovam.mini.training.matching import FOUND_IN
from ovam.mini.training.naming import WORDS, Naming, levelled_shares, named
from ovam.mini.training.texts import Captions
from ovam.mini.training.unet import build_unet
from ovam.models import load, text_of

NAMES = (*CLASSES, *GROUNDS)


def says(*captions):
    row = named([captions])[0]
    return {name: int(value) for name, value in zip(NAMES, row, strict=True) if value >= 0}


def test_a_class_is_there_where_two_captions_name_it_and_open_where_one_does():
    said = says("a cat next to a kitten", "a photo of a kitten", "an image of a cattle", "a dog", "a puppy and a bikes")
    assert {name: value for name, value in said.items() if name in CLASSES} == {"cat": 1, "cow": 0, "dog": 1}


def test_grounds_are_missing_only_where_the_captions_name_grounds():
    assert says("a cat", "a cat on the lawn").items() >= {"grass": 1, "water": 0, "sky": 0}.items()
    said = says("a cat on the lawn", "a cat on the grass under the sky")
    assert {name for name in said if name in GROUNDS} == {"grass", "sky"}


def test_scenes_of_rare_classes_are_drawn_more_often_by_the_root_of_their_rarity():
    cats, dog, nothing = [("a cat", "a kitten")] * 3, [("a dog", "a dog")], [("an animal", "an animal")]
    shares = levelled_shares(named([*cats, *dog, *nothing]))
    assert shares.sum() == pytest.approx(1)
    assert shares[3] == pytest.approx(3**0.5 * float(shares[0]))
    assert shares[4] == pytest.approx(float(shares[0]))  # no scene is never seen


def test_only_samples_without_a_text_are_asked():
    drawn = Captions(text_of("mini").tokenizer, [["a cat", "a cat"], ["a dog", "a dog"]])
    scenes = torch.tensor([0, 1] * 100)
    texts = drawn.texts(scenes, np.random.default_rng(0))
    wordless = texts.ids[:, 1] == drawn.tokenizer.eos_token_id
    assert 0 < wordless.sum() < 200
    assert torch.equal((texts.names != 0).any(1), wordless)
    assert torch.equal(texts.names[wordless], drawn.names[scenes[wordless]])


def test_names_are_looked_for_as_maps_look_for_words():
    pipe, scene = load("mini"), np.full((128, 128, 3), 90, np.uint8)
    scene[40:90, 30:80] = (200, 60, 40)
    naming = Naming(pipe.unet, pipe.text_encoder, pipe.tokenizer)
    naming._prompts = [ways[len(words) :][:1] for ways, words in zip(naming._prompts, WORDS, strict=True)]
    trace = ovam.encode(pipe, scene, timesteps=(100,), dtype=torch.float32)
    states, inside, words = naming._drawn(np.random.default_rng(0), torch.device("cpu"))
    with torch.no_grad():
        maps = [naming._maps(layer, torch.tensor([True]), states, inside, words) for layer in naming._layers]
    assert len(maps) == len(trace.blocks)
    for name in ("dog", "dining table", "sky"):
        asked = Asking(pipe).map(trace, name, keep=("block",))
        for of_block, values, block in zip(asked, maps, trace.blocks.values(), strict=True):
            if block.grid == (32, 32):  # the size of all maps, so that nothing was enlarged
                found = values[0, :, NAMES.index(name)].view(32, 32)
                torch.testing.assert_close(found, torch.from_numpy(of_block), atol=2e-5, rtol=0)  # measured 3e-6


def test_the_loss_is_that_of_plain_loops():
    naming, maps, names, weights = _planted()
    expected = []
    for told in (maps[1], maps[2], maps[3], maps[4], np.mean([_enlarged(values) for values in maps], axis=0)):
        losses = {1: [0.0, 0.0], -1: [0.0, 0.0]}
        for sample, weight in ((0, 0.5), (2, 0.8)):
            for name, sign in enumerate(names[sample].tolist()):
                places = np.sort(told[sample, :, name])
                found = places[-max(1, len(places) // FOUND_IN) :].mean()
                if sign:
                    losses[sign][0] -= weight * np.log(found if sign > 0 else 1 - found)
                    losses[sign][1] += weight
        expected.append(sum(total / count for total, count in losses.values()))
    loss = naming.loss(names, weights, np.random.default_rng(0)).item()
    assert loss == pytest.approx(np.mean(expected), rel=1e-5)  # measured 7e-8
    assert naming.loss(torch.zeros_like(names), weights, np.random.default_rng(0)) == 0


def _planted():
    """A `Naming` whose layers, the first coarse and not told by itself, find what is planted."""
    random = np.random.default_rng(1)
    naming = object.__new__(Naming)
    naming._prompts = [[(torch.zeros(3, 1), torch.ones(3))]] * len(NAMES)
    naming._layers, naming._told = list("abcde"), list("bcde")
    planted = [random.uniform(0.05, 0.95, (3, 16 if i else 4, len(NAMES))) for i in range(5)]
    by_layer = dict(zip("abcde", planted, strict=True))
    naming._maps = lambda layer, asked, *_: torch.from_numpy(by_layer[layer][asked.numpy()])
    names = torch.from_numpy(random.integers(-1, 2, (3, len(NAMES))))
    names[1] = 0
    return naming, planted, names, torch.tensor([0.5, 0.9, 0.8])


def _enlarged(values):
    """(sample, pixel, name) at 4 x 4: bilinear, places of the coarser grid reaching to the border."""
    if values.shape[1] == 16:
        return values
    at = np.clip((np.arange(4) + 0.5) / 2 - 0.5, 0, 1)
    mix = np.stack([1 - at, at], axis=1)
    grid = np.einsum("yi,xj,sijn->syxn", mix, mix, values.reshape(3, 2, 2, -1))
    return grid.reshape(3, 16, -1)


def test_queries_and_keys_learn_the_names():
    torch.manual_seed(0)
    unet, clip = build_unet(), text_of("mini")
    naming = Naming(unet, clip.encoder, clip.tokenizer)
    optimiser = torch.optim.Adam(unet.parameters(), 1e-3)
    names = torch.full((2, len(NAMES)), -1)
    names[0, NAMES.index("dog")] = names[1, NAMES.index("train")] = 1
    latents, losses = torch.randn(2, 4, 16, 16), []
    for _ in range(6):
        unet(latents, torch.tensor([10, 500]), torch.zeros(2, 3, 192))
        loss = naming.loss(names, torch.ones(2), np.random.default_rng(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5  # measured 1.84 and 0.88
    reached = {name for name, value in unet.named_parameters() if value.grad is not None and value.grad.any()}
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight" in reached
    assert "up_blocks.2.attentions.1.transformer_blocks.0.attn2.to_q.weight" in reached
