"""Scores that need a model: votes over several looks at a picture, CLIP; how they are kept, and filters of them."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

import ovam
import tiny
from labelled import clear
from ovam.dataset.annotate import options_of
from ovam.dataset.checking import check
from ovam.dataset.filters import kept_by
from ovam.dataset.generator import generate
from ovam.dataset.kept_scores import read_scores, score_file
from ovam.dataset.layout import read
from ovam.dataset.matcher import load_matcher
from ovam.dataset.prompts import prompts_of
from ovam.dataset.recipe import recipe_of
from ovam.dataset.scoring import score
from ovam.dataset.sections import FilterSection
from ovam.dataset.table import rows_of
from ovam.dataset.views import filter_items
from ovam.dataset.votes import agreed, vote_shares
from ovam.errors import DatasetError, ModelNotFoundError
from test_cli import assert_fails, call, succeed

RUN = {"num_inference_steps": 2, "batch": 3, "height": 32, "width": 32}


TABLES = {
    "data": {"classes": ["dog", "cat", "car"], "number": 6, "name": "small"},
    "model": RUN,
    "prompts": {"places": ["grass", "sea"]},
}


GENTLE = {"refine_method": "restart", "products": 1}
"""Random self-attention knows no outlines: the default's eight products would leave a constant map."""


def recipe(**masks):
    return recipe_of({**TABLES, "masks": {**GENTLE, **masks}})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "whole"
    generate(recipe(), folder, pipe=tiny.sd1())
    return folder


# votes


def test_votes_are_counted_pixel_by_pixel():
    masks = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (3, 5, 7))
    found, both, either = agreed(list(masks)), {1: 0, 2: 0}, {1: 0, 2: 0}
    for y in range(5):
        for x in range(7):
            seen = [int(mask[y, x]) for mask in masks]
            assert found[y, x] == (seen[0] if seen[0] == seen[1] == seen[2] else 255)
            for number in (1, 2):
                both[number] += all(value == number for value in seen)
                either[number] += any(value == number for value in seen)
    shares = vote_shares(list(masks), {"one": 1, "two": 2, "three": 3})
    assert shares == {"one": both[1] / either[1], "two": both[2] / either[2], "three": 0.0}
    assert (agreed([masks[0]]) == masks[0]).all()


def test_a_mask_keeps_what_all_looks_agree_on(whole, tmp_path, sd1):
    asks = recipe_of({**TABLES, "data": {**TABLES["data"], "number": 3}, "masks": {"votes": 2, **GENTLE}})
    generate(asks, tmp_path / "out", pipe=sd1)
    data, prompts, options = read(tmp_path / "out"), prompts_of(asks), options_of(asks)
    for item in data.items:
        one, ids = prompts[item.index], {name: data.about.ids[name] for name in item.classes}
        numbers = np.array([0, *ids.values()], dtype=np.uint8)
        against = [one.place] if one.place else []
        masks, sure = [], np.ones(item.labels().shape, dtype=bool)
        for seed in one.votes:
            look = ovam.encode(sd1, item.image_path, prompt=item.prompt, seed=seed, size=(32, 32), self_attention=True)
            result = look.segment(list(one.words.values()), against=against, refine=options.refine)
            masks.append(numbers[result.labels.numpy()])
            sure &= clear(result)
        assert len({mask.tobytes() for mask in masks}) == 2, "looks with other noise see other masks"
        labels = item.labels()
        assert (labels[sure & (masks[0] != masks[1])] == 255).all()
        assert ((labels == masks[0]) & (labels == masks[1]))[sure & (labels != 255)].all()
        assert item.scores["vote"].keys() == ids.keys()
    assert check(tmp_path / "out")["passed"]
    level = sorted(min(item.scores["vote"].values()) for item in data.items)[1]
    kept = kept_by(data.items, FilterSection(least_vote=max(level, 1e-9), empty=True))
    assert all(min(item.scores["vote"].values()) >= level for item in kept.items)
    with pytest.raises(DatasetError, match="votes=3 in the recipe makes it"):
        kept_by(read(whole).items, FilterSection(least_vote=0.5))


def test_recipes_without_votes_keep_their_hash():
    """Prompts and seeds of folders that were begun before there were votes follow from it."""
    earlier = {"refine_method": "powers", "products": 2, "self_attention_every": 1}
    earlier |= {"ignore_changed": False}  # the defaults of then
    assert recipe(**earlier).digest() == recipe(votes=0, **earlier).digest() == "2d7164dd42beb021"
    assert recipe(votes=1).digest() != recipe().digest()


# CLIP


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Folder of a CLIP with random weights, whose logits differ by some units."""
    folder, words = tmp_path_factory.mktemp("models") / "tiny-clip", tiny.tokenizer()
    text = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    text |= {"num_hidden_layers": 1, "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 24, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture
def scored(whole, clip, tmp_path):
    shutil.copytree(whole, tmp_path / "scored")
    result = score(tmp_path / "scored", str(clip))
    assert (result["scored"], result["skipped"]) == (6, 0)
    return tmp_path / "scored"


def test_a_class_is_weighed_against_its_negation(scored, clip):
    model, words = CLIPModel.from_pretrained(clip).eval(), tiny.tokenizer()
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    item = read(scored).items[0]
    with Image.open(item.image_path) as picture:
        square = np.asarray(picture.convert("RGB").resize((24, 24), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(((square / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
    for name, value in item.scores["clip"].items():
        logits = [
            model(**words([text], return_tensors="pt"), pixel_values=pixels).logits_per_image.item()
            for text in (f"a {name}", f"not a {name}")
        ]
        assert value == pytest.approx(1 / (1 + np.exp(logits[1] - logits[0])), abs=1e-5)
    values = [value for item in read(scored).items for value in item.scores["clip"].values()]
    assert np.std(values) > 1e-4


def test_pictures_that_are_not_square_are_cut(clip):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8))
    matcher = load_matcher(str(clip))
    alone = matcher.probabilities([picture.crop((8, 0, 32, 24))], ["dog"])
    assert matcher.probabilities([picture], ["dog"]) == pytest.approx(alone, abs=1e-6)


def test_scores_are_kept_and_gone_on_with(scored, clip, tmp_path):
    path = score_file(scored, "clip")
    before = path.read_bytes()
    lines = before.split(b"\n")
    path.write_bytes(b"\n".join(lines[:4]) + b"\n" + lines[4][:9])
    assert "clip" not in read(scored).items[0].scores  # not all have it
    result = score(scored, str(clip))
    assert (result["scored"], result["skipped"]) == (3, 3)
    assert path.read_bytes() == before
    model = CLIPModel.from_pretrained(clip)
    model.logit_scale.data += 1
    model.save_pretrained(tmp_path / "other")
    tiny.tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(DatasetError, match="expected the same model"):
        score(scored, str(tmp_path / "other"))
    path.write_bytes(b"\n".join([*lines[:2], b"[]", *lines[3:]]))
    with pytest.raises(DatasetError, match=r"clip\.jsonl is damaged"):
        read(scored)


def test_filters_by_clip_keep_the_better_ones(scored, whole, tmp_path):
    items = read(scored).items
    expected = [item.index for item in kept_by(items, FilterSection(least_clip_quantile=0.3, least_grey=0)).items]
    filters = FilterSection(least_clip_quantile=0.3, empty=True, least_grey=0)
    assert 0 < len(expected) < 6
    result = filter_items(scored, tmp_path / "view", filters=filters, random_dir=tmp_path / "random")
    assert result["dropped"] == {"clip_quantile": 6 - len(expected)}
    for folder in (tmp_path / "view", tmp_path / "random"):
        assert len(read(folder).items) == len(expected)
        assert all(len(row["clip"]) == len(row["classes"]) for row in rows_of(folder))
    assert [item.index for item in read(tmp_path / "view").items] == expected
    assert "probability of the class by CLIP" in (tmp_path / "view" / "README.md").read_text()
    kept = score_file(tmp_path / "view", "clip")
    with score_file(scored, "clip").open("ab") as file:
        file.write(b"x")
    assert read_scores(kept)[1].keys() == {item.index for item in items}
    with pytest.raises(DatasetError, match="`ovam dataset score` makes it"):
        kept_by(read(whole).items, FilterSection(least_clip=0.5))


def test_models_that_are_no_clip_are_named(whole, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    for name, message in ((tmp_path / "bert", "is a bert"), (tmp_path / "missing", "could not be loaded")):
        with pytest.raises(ModelNotFoundError, match=message):
            load_matcher(str(name))
    assert_fails(call("dataset", "score", whole, "--clip", tmp_path / "bert"), "is a bert")
    assert not (whole / "scores").exists()


def test_the_command_scores(whole, clip, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    assert succeed("dataset", "score", tmp_path / "out", "--clip", clip)["scored"] == 6
    assert call("dataset", "score", tmp_path / "out", "--clip", clip).exit_code == 0
