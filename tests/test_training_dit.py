"""mini-dit's recipe: the loss is the definition's, alike rows are carried once, plain diffusers takes its folder."""

import json
import math
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import ovam
from ovam.errors import ModelNotFoundError, OptionError, PromptTooLongError
from ovam.mini.measures import joint
from ovam.mini.measures.asking import untrained
from ovam.mini.measures.words import scenes_of
from ovam.mini.scenes import CLASSES
from ovam.mini.training import dit, recipe
from ovam.mini.training.denoiser import DenoiserTraining, Phase, checkpoint_of
from ovam.mini.training.dit import FlowMatching
from ovam.mini.training.loop import load_tensors
from ovam.mini.training.matching import FOUND_IN
from ovam.mini.training.pool import Pool
from ovam.mini.training.text_tower import PictureTower
from ovam.mini.training.texts import Captions
from ovam.models import mini_folder, text_of

CAPTIONS = ("a cat on the grass", "a red car")


class _Pool(Pool):
    """Pictures of noise."""

    def __init__(self):
        self.captions = [[caption] for caption in CAPTIONS * 4]

    def pictures(self, indices, size):
        return torch.rand(len(indices), 3, size, size) * 2 - 1


def training(folder):
    clip, latents = text_of("mini"), {64: torch.randn(8, 4, 16, 16).half()}
    return DenoiserTraining(
        folder / "transformer",
        lambda: FlowMatching(clip.encoder, PictureTower(8)),
        latents,
        _Pool(),
        clip.tokenizer,
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A run that was broken off after one iteration and taken up for another, beside mini's own parts."""
    work = tmp_path_factory.mktemp("work")
    recipe.take_up(mini_folder(), work)
    (work / "identity.json").write_text(json.dumps({"world": 1, "seed": 0}))
    training(work).run((Phase(1, ((64, 4),)),))
    before = load_tensors(checkpoint_of(work / "transformer"))
    resumed = training(work)
    assert resumed.iteration == 1
    for name, value in resumed.model.named_parameters():
        assert torch.equal(value, before[f"raw.{name}"])
        assert torch.equal(resumed.average.values[name], before[f"ema.{name}"])
    resumed.run((Phase(2, ((64, 4),)),))
    return work


@pytest.fixture(scope="module")
def folder(work, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    recipe.export(work, folder, model="mini-dit")
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    """The exported pipeline with a denoiser whose blocks do something: freshly made ones are the identity."""
    pipe = ovam.load(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer = sharpened(pipe.transformer)
    return pipe


def sharpened(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value += 0.05 * torch.randn_like(value)
    return model.eval()


def test_a_run_goes_on_where_it_was_broken_off(work):
    tensors = load_tensors(checkpoint_of(work / "transformer"))
    assert int(tensors["iteration"]) == 2
    assert not torch.equal(tensors["raw.proj_out.weight"], tensors["ema.proj_out.weight"])


def test_plain_diffusers_loads_the_folder_and_makes_an_image(folder):
    code = (
        "import sys; from diffusers import StableDiffusion3Pipeline as P\n"
        f"p = P.from_pretrained({str(folder)!r}, local_files_only=True)\n"
        "p.set_progress_bar_config(disable=True)\n"
        "image = p('a cat on the grass', num_inference_steps=1).images[0]\n"
        "assert image.size == (128, 128) and not any(name.startswith('ovam') for name in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_its_averaged_weights_are_exported_and_no_tower_twice(folder, work):
    tensors = load_tensors(checkpoint_of(work / "transformer"))
    exported = ovam.load(folder).transformer.state_dict()
    assert torch.equal(exported["proj_out.weight"], tensors["ema.proj_out.weight"].half().float())
    assert (folder / "text_encoder_2" / "model.safetensors").stat().st_size < 200_000
    assert json.loads((folder / "training.json").read_text())["iterations"] == 2


def test_training_tells_the_denoiser_what_the_pipeline_does(pipe):
    """The one row that stands for T5's has the effect of all 256 in the pipeline's own attention."""
    ids = pipe.tokenizer(list(CAPTIONS), padding="max_length", return_tensors="pt").input_ids
    objective = FlowMatching(text_of("mini").encoder, PictureTower(8))
    attended = torch.ones(ids.shape, dtype=torch.bool)
    rows, pooled = objective._told(ids, attended)
    objective.model.load_state_dict(pipe.transformer.state_dict())
    latents, times = torch.randn(2, 4, 16, 32), torch.tensor([300.0, 800.0])
    options = {"attention_mask": dit.column_bias(attended, 8 * 16)}
    with torch.no_grad():
        told, _, told_pooled, _ = pipe.encode_prompt(list(CAPTIONS), None, None, do_classifier_free_guidance=False)
        found = objective.model(latents, rows, pooled, times, joint_attention_kwargs=options).sample
        expected = pipe.transformer(latents, told, told_pooled, times).sample
        unseen = pipe.transformer(latents, told[:, :77], told_pooled, times).sample
    assert told.shape[1] == 77 + 256
    assert torch.equal(rows[:, :77], told[:, :77])
    assert torch.equal(pooled, told_pooled)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()  # measured: 6e-7
    assert (unseen - expected).abs().max() > 1e-2 * expected.abs().max()  # measured: 0.26


def test_a_prompt_that_the_tower_can_t_read_is_refused_though_the_blank_encoder_reads_none_of_it(pipe):
    with pytest.raises(PromptTooLongError, match="has 78 tokens, special ones included, but the text encoders read 77"):
        ovam.stream(pipe, "cat " * 76).__enter__()
    assert pipe.tokenizer_3("cat " * 76).input_ids == []


def test_words_alone_are_told_to_half_of_the_samples():
    """What may not be attended changes nothing, wherever it is changed."""
    torch.manual_seed(0)
    objective = FlowMatching(text_of("mini").encoder, PictureTower(8))
    sharpened(objective.model)
    ids = text_of("mini").tokenizer(list(CAPTIONS), padding="max_length", return_tensors="pt").input_ids
    attended = torch.ones(ids.shape, dtype=torch.bool)
    attended[0, 6:] = False
    rows, pooled = objective._told(ids, attended)
    assert not pooled[0].any()
    assert pooled[1].any()
    options = {"attention_mask": dit.column_bias(attended, 64)}
    latents, times = torch.randn(2, 4, 16, 16), torch.tensor([300.0, 800.0])
    with torch.no_grad():
        before, other_rows = (
            objective.model(latents, rows, pooled, times, joint_attention_kwargs=options).sample,
            rows.clone(),
        )
        other_rows[:, 6:] += 1
        after = objective.model(latents, other_rows, pooled, times, joint_attention_kwargs=options).sample
    assert torch.allclose(before[0], after[0], atol=1e-6)
    assert not torch.allclose(before[1], after[1], atol=1e-2)


def _found(query, key, bias):
    """A token's attention over the text in float64 and plain loops: mean of heads and of the highest 16th of places."""
    heads, places, width = query.shape
    attention = np.zeros((places, key.shape[1]))
    for head in range(heads):
        for place in range(places):
            scores = key[head] @ query[head, place] / math.sqrt(width) + bias
            weights = np.exp(scores - scores.max())
            attention[place] += weights / weights.sum() / heads
    return np.sort(attention, axis=0)[-(places // FOUND_IN) :].mean(0)


def test_the_loss_is_that_of_the_definition(monkeypatch):
    monkeypatch.setattr(dit, "half_precision", nullcontext)
    torch.manual_seed(0)
    objective = FlowMatching(text_of("mini").encoder, PictureTower(8))
    sharpened(objective.model)
    texts = Captions(text_of("mini").tokenizer, _Pool().captions).texts(torch.arange(8), np.random.default_rng(3))
    clean, pictures = torch.randn(8, 4, 16, 16), torch.rand(8, 3, 64, 64) * 2 - 1
    torch.manual_seed(5)
    with torch.no_grad():
        losses = objective.losses(clean, pictures, texts)
    torch.manual_seed(5)
    noise, shares = torch.randn(8, 4, 16, 16).double().numpy(), torch.rand(8).double().numpy()
    noisy = np.stack([(1 - s) * c + s * n for s, c, n in zip(shares, clean.double().numpy(), noise, strict=True)])
    rows, pooled = objective._told(texts.ids, texts.attended)
    bias = dit.column_bias(texts.attended, 64)
    with torch.no_grad():
        told = torch.from_numpy(noisy).float(), rows, pooled, torch.from_numpy(1000 * shares).float()
        velocity = objective.model(*told, joint_attention_kwargs={"attention_mask": bias}).sample.double().numpy()
    expected = ((velocity - (noise - clean.double().numpy())) ** 2).mean()
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)  # measured: 3e-7

    layers = []
    for block in objective.model.transformer_blocks[3:]:
        own, other = np.zeros(2), np.zeros(2)  # sum of weighted losses, sum of weights
        for sample in range(8):
            query, key = (part[sample].double().numpy() for part in vars(block.attn.processor).values())
            found = _found(query, key, bias[sample, 0, 0, 64:].double().numpy()).clip(1e-4, 1 - 1e-4)
            signal = (1 - shares[sample]) ** 2 / ((1 - shares[sample]) ** 2 + shares[sample] ** 2)
            for position, belongs in enumerate(texts.belongs[sample].tolist()):
                if belongs == 1:
                    own += np.array([-np.log(found[position]) * signal, signal])
                if belongs == -1:
                    other += np.array([-np.log(1 - found[position]) * signal, signal])
        layers.append(own[0] / max(own[1], 1) + other[0] / max(other[1], 1))
    assert texts.belongs.any()
    assert len(layers) == dit.LAYERS / 2
    assert losses["mismatched"].item() == pytest.approx(np.mean(layers), rel=1e-5)  # measured: 1e-8


def test_a_fresh_denoiser_tells_nothing_and_each_part_of_it_learns():
    torch.manual_seed(0)
    objective = FlowMatching(text_of("mini").encoder, PictureTower(8))
    texts = Captions(text_of("mini").tokenizer, _Pool().captions).texts(torch.arange(8), np.random.default_rng(3))
    clean, pictures = torch.randn(8, 4, 16, 16), torch.rand(8, 3, 64, 64) * 2 - 1
    trained = [*objective.model.parameters(), *objective.alignment.parameters()]
    optimiser, found = torch.optim.Adam(trained, 1e-3), []
    for _ in range(4):
        torch.manual_seed(0)
        losses = objective.losses(clean, pictures, texts)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        found.append({name: loss.item() for name, loss in losses.items()})
    assert all(found[-1][name] < found[0][name] for name in found[0]), found
    unmoved = {name for name, value in objective.model.named_parameters() if value.grad is None or not value.grad.any()}
    text_query = ("add_q_proj.weight", "add_q_proj.bias", "norm_added_q.weight")
    assert unmoved <= {f"transformer_blocks.5.attn.{name}" for name in text_query}  # the last block gives no text on
    assert not any(value.grad is not None for value in objective.encoder.parameters())


def test_late_words_are_answered_as_given_ones(pipe):
    """Measured on scenes by the report; here that the exported pipeline is one that ovam reads."""
    run = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "latent"}
    with ovam.capture(pipe, dtype=torch.float32) as traces:
        pipe("a cat on the grass", generator=torch.Generator().manual_seed(0), **run)
    with ovam.stream(pipe, ["dog", "motorbike"]) as streamed:
        pipe("a cat on the grass", generator=torch.Generator().manual_seed(0), **run)
    assert traces[0].maps("a cat on the grass")["cat"].shape == (8, 8)
    late = traces[0].maps(["dog", "motorbike"])
    assert torch.allclose(late.stacked(), streamed[0].stacked(), atol=1e-6)
    assert late.stacked().std() > 1e-4


def test_the_report_asks_scenes_both_ways(pipe):
    """One evaluation of the pipeline's own call at each noise level sees what `encode` does."""
    (scene,) = scenes_of("test", 1, least=2)
    names = sorted({thing.name for thing in scene.objects})
    views = joint.views_of(pipe, scene, (100, 500), seed=0)
    late = joint.WAYS[joint.LATE](pipe, views, names, None)
    expected = ovam.encode(pipe, scene.image, timesteps=(100, 500)).maps(names).stacked().numpy()
    assert np.abs(late - expected).max() < 1e-5 * expected.max()  # measured: 2e-7
    found = joint.compare_ways(pipe, scenes=1, blocks=None, timesteps=(100, 500))
    ious = {way: row["IoU"] for way, row in found["by way"].items()}
    assert found["late minus given"] == ious[joint.LATE] - ious[joint.GIVEN]
    assert abs(found["late minus given"]) < joint.WITHIN
    assert 0 < found["furthest"] < 1e-3 * expected.max()  # measured: 2e-5 of it, the storage in float16


def test_the_output_space_is_asked_for_all_classes_and_gives_the_asked_ones(pipe):
    (scene,) = scenes_of("test", 1, least=2)
    views = joint.views_of(pipe, scene, (100, 500), seed=0)
    every = joint.WAYS[joint.OUTPUT](pipe, views, CLASSES, None)
    assert np.abs(every.sum(0) - 1).max() < 1e-6  # measured: 1.8e-7
    asked = joint.WAYS[joint.OUTPUT](pipe, views, ["sofa", "cat"], None)
    assert np.array_equal(asked, every[[CLASSES.index("sofa"), CLASSES.index("cat")]])


def test_the_untrained_sibling_differs_in_its_denoiser_alone(pipe):
    blank = untrained(pipe)
    assert blank.text_encoder is pipe.text_encoder
    name, value = next(iter(pipe.transformer.named_parameters()))
    assert not torch.equal(dict(blank.transformer.named_parameters())[name], value)


@pytest.mark.user_error
def test_the_sibling_that_is_not_shipped_names_its_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr("ovam.models.mini_dit_folder", lambda: tmp_path)
    for act in (ovam.load, ovam.plan, text_of):
        with pytest.raises(ModelNotFoundError, match=r"'mini-dit' is not shipped.*`ovam mini train --model mini-dit`"):
            act("mini-dit")


@pytest.mark.user_error
def test_a_model_without_a_recipe_is_named(tmp_path):
    for act in (lambda: recipe.train(tmp_path, model="maxi"), lambda: recipe.export(tmp_path, tmp_path, model="maxi")):
        with pytest.raises(OptionError, match="model 'maxi' has no recipe: expected 'mini' or 'mini-dit'"):
            act()
