"""Tokens on disk: what is written comes back, what is damaged or hostile is refused, and nothing in it is run."""

import io
import json
import os
import pickle
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ovam import errors
from ovam.maps.calibration import Calibration
from ovam.maps.thresholds import Thresholds
from ovam.tokens.card import model_card
from ovam.tokens.hub import FILE, push_to_hub
from ovam.tokens.legacy import import_tokens, read_arrays
from ovam.tokens.token_set import BACKGROUND, Fit, TokenGroup, TokenSet
from ovam.trace.text_side import Space
from synthetic import SPACE, WIDTH, Pieces
from test_errors import assert_refuses


@pytest.fixture
def tokens():
    random = torch.Generator().manual_seed(0)
    fit = Fit(
        "mini",
        "StableDiffusionPipeline",
        "cond",
        ("up_blocks.1",),
        ((500.0, 250.5), (10.0,)),
        losses=(2.0, 0.5, 0.75),
        stopped="converged",
        annotations=("ab" * 32,),
        remark='told "so"\n',
        versions={"ovam": "0.1.0"},
    )
    pair = TokenGroup(
        (BACKGROUND, "sky", "hot dog"),
        torch.randn(3, WIDTH, generator=random),
        {"sky": Calibration(8.0, -4.0), "hot dog": Calibration(9.5, -3.0)},
        fit,
        "CC-BY-4.0",
    )
    alone = TokenGroup((BACKGROUND, "car"), torch.randn(2, WIDTH, generator=random), {}, Fit("other"))
    return TokenSet((pair, alone), SPACE)


def assert_same(found, expected):
    assert found.space == expected.space
    assert len(found.groups) == len(expected.groups)
    for one, other in zip(found.groups, expected.groups, strict=True):
        assert torch.equal(one.vectors, other.vectors)
        for name in ("rows", "calibrations", "fit", "licence", "thresholds"):
            assert getattr(one, name) == getattr(other, name)


class TestFile:
    def test_what_is_written_comes_back_and_bytes_are_stable(self, tokens, tmp_path):
        tokens.save(tmp_path / "a.safetensors")
        found = TokenSet.load(tmp_path / "a.safetensors")
        assert_same(found, tokens)
        found.save(tmp_path / "b.safetensors")
        assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]

    def test_thresholds_come_back_and_raise_the_version(self, tokens, tmp_path):
        """Readers of version 1 would make other masks, so such a file is of version 2; others stay as they are."""
        path, versions = tmp_path / "a.safetensors", []
        chosen = {"sky": Thresholds(mask=0.35, pictures=12, refined=True), "car": Thresholds(presence=0.8)}
        for each in (tokens, tokens.with_thresholds(chosen)):
            self.changed(each, path, lambda header, _: versions.append(header["format_version"]))
            assert_same(TokenSet.load(path), each)
        assert versions == [1, 2]
        assert TokenSet.load(path).thresholds == chosen
        assert tokens.with_thresholds(chosen).with_thresholds({}).thresholds == {}
        assert_refuses(errors.OptionError, ["'cow'", "sky"], lambda: tokens.with_thresholds({"cow": Thresholds()}))

    @pytest.mark.parametrize(
        ("found", "message"),
        [
            ({"cow": {"mask": 0.5, "presence": None}}, "['cow']"),
            ({"sky": {"mask": 1.5, "presence": None}}, "mask is 1.5"),
            ({"sky": {"mask": None, "presence": "NaN"}}, "presence is 'NaN'"),
            ({"sky": {"mask": 0.5}}, "presence is missing"),
            ({"sky": {"mask": 0.5, "presence": None, "pictures": -1}}, "pictures is -1"),
        ],
    )
    def test_thresholds_that_do_not_fit(self, tokens, tmp_path, found, message):
        path = self.changed(tokens, tmp_path / "a.safetensors", lambda h, t: h["groups"][0].update(thresholds=found))
        assert_refuses(errors.TokenFileError, [str(path), message], lambda: TokenSet.load(path))

    def test_a_failed_write_leaves_the_old_file(self, tokens, tmp_path, monkeypatch):
        path = tmp_path / "a.safetensors"
        tokens.save(path)
        before = path.read_bytes()

        def half_written(tensors, file, metadata):
            file.write_bytes(b"half")
            raise OSError("disk full")

        monkeypatch.setattr("ovam.tensor_file.save_file", half_written)
        assert_refuses(errors.TokenFileError, ["a.safetensors", "disk full"], lambda: tokens.save(path))
        assert path.read_bytes() == before
        assert [found.name for found in tmp_path.iterdir()] == ["a.safetensors"]
        assert_refuses(errors.TokenFileError, ["absent"], lambda: tokens.save(tmp_path / "absent" / "a.safetensors"))
        assert_refuses(errors.TokenFileError, ["is a folder"], lambda: tokens.save(tmp_path))

    def test_every_truncation_is_refused(self, tokens, tmp_path):
        tokens.save(tmp_path / "a.safetensors")
        whole = (tmp_path / "a.safetensors").read_bytes()
        for end in range(0, len(whole), 97):
            (tmp_path / "cut.safetensors").write_bytes(whole[:end])
            with pytest.raises(errors.TokenFileError):
                TokenSet.load(tmp_path / "cut.safetensors")

    def changed(self, tokens, path, change):
        tokens.save(path)
        tensors, header = load_file(path), {}
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(json.loads(file.read(length))["__metadata__"]["ovam"])
        change(header, tensors)
        save_file(tensors, path, {"ovam": json.dumps(header)})
        return path

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda h, t: h.update(format_version=3), "newer than the 2"),
            (lambda h, t: h.update(format_version="1"), "format version '1'"),
            (lambda h, t: h.update(format="ovam-trace"), "'ovam-trace'"),
            (lambda h, t: h["space"].update(width=WIDTH + 1), str(WIDTH + 1)),
            (lambda h, t: h["space"].pop("encoder"), "encoder"),
            (lambda h, t: h["groups"][0]["rows"].append("sky"), "4 rows"),
            (lambda h, t: h["groups"][0]["rows"].append("more"), "'more'"),
            (lambda h, t: h["groups"][1].update(rows=["car", "car"]) or h["groups"][1].pop("fit"), "fit"),
            (lambda h, t: h["groups"][0]["calibrations"]["sky"].update(kind="new"), "'new'"),
            (lambda h, t: h["groups"][0]["calibrations"]["sky"].update(scale="NaN"), "scale is 'NaN'"),
            (lambda h, t: h["groups"][0]["calibrations"]["sky"].update(scale=True), "scale is True"),
            (lambda h, t: h["groups"][0]["calibrations"]["sky"].update(offset=1e30), "offset is 1e+30"),
            (lambda h, t: h["groups"][0]["calibrations"].pop("sky"), "['hot dog']"),
            (lambda h, t: h["groups"][0]["calibrations"].clear(), "calibrations of none"),
            (lambda h, t: h["groups"][0]["fit"].update(blocks=[[]]), "fit.blocks[0]"),
            (lambda h, t: h["groups"][0]["fit"].update(timesteps=[["9"]]), "timesteps[0][0]"),
            (lambda h, t: h["groups"][0]["fit"].update(losses=[float("inf")]), "losses[0] is inf"),
            (lambda h, t: h["groups"][0]["fit"].update(versions=3), "versions is 3"),
            (lambda h, t: h["groups"][0].update(licence="\udcff"), "not valid Unicode"),
            (lambda h, t: h["space"].update(width=-WIDTH), "width is -"),
            # finite in float64 alone: all scores would be NaN, or a scale of 0
            (lambda h, t: h["groups"][0]["calibrations"]["sky"].update(scale=1e39), "1e+39"),
            (lambda h, t: h["groups"][0]["calibrations"]["sky"].update(offset=-1e39), "-1e+39"),
            (lambda h, t: h["groups"][0]["calibrations"]["sky"].update(scale=5e-324), "5e-324"),
            (lambda h, t: h["groups"][1].update(rows=[BACKGROUND, "sky"]), "twice"),
            (lambda h, t: h.update(groups=[]), "groups is a list of 0"),
            (lambda h, t: h["groups"][1].update(rows=[BACKGROUND, BACKGROUND]), "no class"),
            (lambda h, t: t.pop("group/1"), "group/1"),
            (lambda h, t: t["group/0"].fill_(float("inf")), "NaN or infinity"),
        ],
    )
    def test_a_header_that_does_not_fit(self, tokens, tmp_path, change, message):
        path = self.changed(tokens, tmp_path / "a.safetensors", change)
        assert_refuses(errors.TokenFileError, [str(path), message], lambda: TokenSet.load(path))

    def test_files_of_another_kind(self, tmp_path):
        (tmp_path / "text.safetensors").write_text("tokens")
        save_file({"emb_params": torch.zeros(1, 4)}, tmp_path / "inversion.safetensors")
        for name in ("text.safetensors", "inversion.safetensors", "absent.safetensors"):
            assert_refuses(errors.TokenFileError, [name], lambda name=name: TokenSet.load(tmp_path / name))

    def test_another_layer_than_encoders_are_asked_for(self, tokens, tmp_path):
        other = replace(tokens, space=replace(SPACE, layer="../last"))
        assert_refuses(errors.TokenFileError, ["'../last'"], lambda: other.save(tmp_path / "a.safetensors"))
        path = self.changed(tokens, tmp_path / "a.safetensors", lambda h, t: h["space"].update(layer="../last"))
        assert_refuses(errors.TokenFileError, ["'../last'"], lambda: TokenSet.load(path))

    def test_fields_of_a_later_version_are_no_damage(self, tokens, tmp_path):
        def add_fields(header, tensors):
            for part in (header, header["space"], header["groups"][0], header["groups"][0]["fit"]):
                part["colour"] = [{"red": 1}]

        assert_same(TokenSet.load(self.changed(tokens, tmp_path / "a.safetensors", add_fields)), tokens)

    def test_sets_of_two_spaces_are_not_merged(self, tokens):
        other = replace(tokens, space=Space("Other:1", "last", WIDTH))
        assert_refuses(errors.SpaceMismatchError, [str(SPACE), "Other:1"], lambda: tokens.merged(other))

    def test_the_card_tells_what_matters(self, tokens):
        card = tokens.card()
        for part in ("sky", "hot dog", "car", str(SPACE), "mini", "CC-BY-4.0", "jointly", "alone", "0.5000 at best"):
            assert part in card


class TestHub:
    def test_a_pushed_folder_is_read_back(self, tokens, tmp_path, monkeypatch):
        sent = {}

        class Api:
            def __init__(self, token=None):
                sent["token"] = token

            def create_repo(self, repo_id, private, exist_ok):
                return type("Url", (), {"repo_id": f"me/{repo_id}"})

            def upload_folder(self, repo_id, folder_path, **options):
                sent.update(repo=repo_id, **options)
                shutil.copytree(folder_path, tmp_path, dirs_exist_ok=True)
                return type("Commit", (), {"commit_url": "https://example/commit"})

        monkeypatch.setattr("huggingface_hub.HfApi", Api)
        assert push_to_hub(tokens, "cats", token="t") == "https://example/commit"
        assert (sent["repo"], sent["token"]) == ("me/cats", "t")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", FILE]
        assert_same(TokenSet.from_pretrained(tmp_path), tokens)
        assert (tmp_path / "README.md").read_text().startswith("---\nlibrary_name: ovam\n")

    def test_a_refused_upload_is_told(self, tokens, monkeypatch):
        class Api:
            def __init__(self, token=None): ...

            def create_repo(self, repo_id, private, exist_ok):
                raise OSError("401 Client Error")

        monkeypatch.setattr("huggingface_hub.HfApi", Api)
        assert_refuses(errors.TokenFileError, ["'cats'", "401", "logged in"], lambda: push_to_hub(tokens, "cats"))

    @pytest.mark.parametrize(
        ("licence", "message"),
        [
            ("CC-BY-4.0", "license: cc-by-4.0\n"),
            ("Ours, for research", "license: other\nlicense_name: ours-for-research\n"),
            (None, "license: other\nlicense_name: other\n"),
        ],
    )
    def test_the_hub_is_told_a_licence_in_its_own_words(self, tokens, licence, message):
        groups = tuple(replace(group, licence=licence) for group in tokens.groups)
        assert message in model_card(replace(tokens, groups=groups))

    def test_what_is_not_there(self, tmp_path):
        refused = (lambda: TokenSet.from_pretrained(tmp_path), lambda: TokenSet.from_pretrained("nobody/nothing"))
        for action in refused:
            assert_refuses(errors.TokenFileError, [FILE], action)


class Stolen:
    """What a hostile file would like to do."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def npy_of(pickled):
    """An `.npy` file of objects with these bytes behind its header."""
    stream = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + pickled


def as_npy(thing):
    return npy_of(pickle.dumps(thing, protocol=4))


def as_plain(shape):
    """An `.npy` file of one row that tells another shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(4 * WIDTH)


TARGET = "/tmp/ovam-was-run"
VECTOR = np.ones(WIDTH, dtype=np.float32)
RUN = f"open({TARGET!r}, 'w')"
HOSTILE = {
    "a command": as_npy({"cat": Stolen(os.system, f"touch {TARGET}")}),
    "evaluated text": as_npy({"cat": Stolen(eval, RUN)}),
    "executed in a list": as_npy([VECTOR, Stolen(exec, RUN)]),
    "an import": as_npy({"cat": Stolen(__import__, "antigravity")}),
    "attributes one by one": as_npy({"cat": Stolen(getattr, "cat", "upper")}),
    "a function of numpy": as_npy({"cat": Stolen(np.save, TARGET, VECTOR)}),
    "memory mapped by numpy": as_npy({"cat": Stolen(np.memmap, TARGET, "float32", "w+", 0, (9,))}),
    "the old way of objects": npy_of(b"(S'touch " + TARGET.encode() + b"'\nios\nsystem\n."),
    "a registered extension": npy_of(b"\x80\x04\x82\x01."),
    "a persistent name": npy_of(b"\x80\x04Pcat\n."),
    "a new object of a class": as_npy({"cat": torch.Generator}),
    "an array of objects with a command": as_npy(
        {"cat": np.array([Stolen(os.system, f"touch {TARGET}")], dtype=object)}
    ),
    "a huge memo": npy_of(b"\x80\x04}r\xff\xff\xff\x7f."),
    "an array that claims to be huge": npy_of(
        pickle.dumps({"cat": VECTOR}, protocol=4).replace(struct.pack("<B", WIDTH) + b"\x85", b"\xff\x85", 1)
    ),
    "a key that is deep": npy_of(b"\x80\x04}" + b")" + b"\x85" * 4000 + b"Ns."),
    "keys that are numbers": npy_of(b"\x80\x04}(K\x01NK\x02Nu."),
    "a key of megabytes": npy_of(b"\x80\x04}X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"Ns."),
    "a flood of nothing": npy_of(b"\x80\x04](" + b"N" * 10**6 + b"e."),
    "a flood of dictionaries": npy_of(b"\x80\x04](" + b"}" * 10**6 + b"e."),
    "five megabytes": npy_of(b"\x80\x04" + b"N" * 5 * 10**6 + b"."),
    "a plain array that claims to be huge": as_plain((2**40, WIDTH)),
    "a plain array that claims to be less than nothing": as_plain((-1, -WIDTH)),
    "no end": as_npy({"cat": VECTOR})[:-1],
    "a dictionary of numbers": as_npy({"cat": 3}),
    "an array of whole numbers": as_npy({"cat": np.arange(WIDTH)}),
}


class TestForeign:
    @pytest.mark.parametrize("damage", [(b")", b" "), (b"'descr'", b"\n  'des")], ids=["bracket", "indent"])
    def test_a_damaged_header_is_refused(self, tmp_path, damage):
        path = tmp_path / "tokens.npy"
        np.save(path, np.ones((2, 4), dtype=np.float32))
        path.write_bytes(path.read_bytes().replace(*damage))
        assert_refuses(errors.TokenFileError, [str(path)], lambda: read_arrays(path))

    @pytest.mark.parametrize("kind", HOSTILE)
    def test_hostile_files_are_refused_and_not_run(self, tmp_path, kind):
        path = tmp_path / "tokens.npy"
        path.write_bytes(HOSTILE[kind])
        assert_refuses(errors.TokenFileError, [str(path), "nothing in it was run"], lambda: read_arrays(path))
        assert not Path(TARGET).exists()

    def test_the_hostile_files_would_run(self, tmp_path):
        """One of them, to see that they are real."""
        path = tmp_path / "tokens.npy"
        path.write_bytes(as_npy({"cat": Stolen(eval, "[].append(1) or 'ran'")}))
        assert np.load(path, allow_pickle=True) == {"cat": "ran"}
        with pytest.raises(errors.TokenFileError):
            read_arrays(path)

    @pytest.mark.parametrize("protocol", [3, 4])
    @pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
    def test_a_dictionary_of_vectors(self, tmp_path, protocol, dtype):
        """As numpy writes it, and with the module path of numpy 1, in which the authors' files were written."""
        vectors = {name: np.arange(WIDTH).astype(dtype) + i for i, name in enumerate(["cat", "tv monitor"])}
        wrapped = np.empty((), dtype=object)
        wrapped[()] = vectors
        new = pickle.dumps(wrapped, protocol=protocol)
        for written in (npy_of(new), npy_of(old_names(new))):
            path = tmp_path / "tokens_VOC.npy"
            path.write_bytes(written)
            found = read_arrays(path)
            assert list(found) == list(vectors)
            for name, vector in vectors.items():
                assert np.array_equal(found[name], vector)

    def test_a_dictionary_gets_the_start_token_as_background(self, tmp_path):
        np.save(tmp_path / "tokens_VOC.npy", {"cat": VECTOR, "dog": 2 * VECTOR}, allow_pickle=True)
        tokens = import_tokens(tmp_path / "tokens_VOC.npy", Pieces())
        assert tokens.classes == ("cat", "dog")
        start = Pieces().embed("a").vectors[0]
        for group, factor in zip(tokens.groups, (1, 2), strict=True):
            assert torch.equal(group.vectors, torch.stack([start, torch.full((WIDTH,), float(factor))]))
            assert "background" in group.fit.remark

    def test_an_array_of_two_rows(self, tmp_path):
        rows = np.random.default_rng(0).normal(size=(2, WIDTH)).astype(np.float32)
        np.save(tmp_path / "cat_optimized_token.npy", rows)
        tokens = import_tokens(tmp_path / "cat_optimized_token.npy", Pieces())
        assert tokens.classes == ("cat",)
        assert np.array_equal(tokens.groups[0].vectors.numpy(), rows)
        assert import_tokens(tmp_path / "cat_optimized_token.npy", Pieces(), word="kitten").classes == ("kitten",)

    @pytest.mark.parametrize("name", [BACKGROUND, " "])
    def test_a_class_that_no_file_could_hold(self, tmp_path, name):
        np.save(tmp_path / "tokens.npy", {"cat": VECTOR, name: VECTOR}, allow_pickle=True)
        np.save(tmp_path / "one.npy", np.stack([VECTOR, VECTOR]))
        for action in (
            lambda: import_tokens(tmp_path / "tokens.npy", Pieces()),
            lambda: import_tokens(tmp_path / "one.npy", Pieces(), word=name),
        ):
            assert_refuses(errors.TokenFileError, [repr(name), "expected a word"], action)

    def test_vectors_of_another_width(self, tmp_path):
        np.save(tmp_path / "cat.npy", np.ones((2, WIDTH + 1), dtype=np.float32))
        parts = [str(WIDTH + 1), str(SPACE)]
        assert_refuses(errors.SpaceMismatchError, parts, lambda: import_tokens(tmp_path / "cat.npy", Pieces()))


def old_names(pickled):
    """The same pickle with the module path of numpy 1, which is one letter shorter."""
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    if pickled[1] >= 4:  # one frame with its length, and the name with its own
        at = pickled.index(new)
        pickled = pickled[: at - 1] + bytes([len(old)]) + pickled[at:]
        (length,) = struct.unpack("<Q", pickled[3:11])
        pickled = pickled[:3] + struct.pack("<Q", length - 1) + pickled[11:]
    return pickled.replace(new, old)
