"""The whole recipe, stage after stage; each stage is skipped when its result lies in the work folder."""

import itertools
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch.multiprocessing import spawn  # type: ignore[attr-defined]
from transformers import CLIPTextModel, CLIPTokenizer

from lab.mini.oracle import load_oracles
from lab.mini.training.autoencoder import encode_pool, train_autoencoder
from lab.mini.training.chances import chances, classes_shown
from lab.mini.training.denoiser import DenoiserTraining, Phase, averaged, checkpoint_of
from lab.mini.training.doubling import train_doubled
from lab.mini.training.loop import Peers, load_tensors, multiplies_bfloat16, save_tensors
from lab.mini.training.oracles import JUDGED, train_oracles
from lab.mini.training.pool import Pool
from lab.mini.training.text_tower import train_text_encoder
from lab.mini.training.texts import Captions
from lab.mini.training.tokenizer import train_tokenizer
from lab.mini.training.unet import build_scheduler, build_unet
from ovam.errors import OptionError
from ovam.mini.scenes import WORLD
from ovam.mini.towers import PICTURE_TOWER, TEXT_HEAD
from ovam.models import load

RECIPE = 2
"""Version of the recipe: another number where parts of one can't be used in another."""

SCENES = 40_000
PHASES = (  # at a rate of 1e-3 the averaged weights hardly improved after 12,000 iterations
    Phase(15_500, 128, 32, 1e-3, 1e-3),
    Phase(16_500, 128, 32, 4e-4, 2e-4),
    Phase(5_500, 128, 32, 4e-4, 1e-5),
)
_LARGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # an iteration takes nine tenths of the time
_TOWERS = (PICTURE_TOWER, TEXT_HEAD)  # shipped where they were trained: CLIP scores need them
_HISTORY = "history.txt"  # kept by hand where a run was changed on its way


def _parts(work: Path, pool: Pool, seed: int) -> tuple[CLIPTokenizer, AutoencoderKL, CLIPTextModel]:
    if not (work / "tokenizer").exists():
        train_tokenizer().save_pretrained(work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    if not (work / "vae").exists():
        _train_autoencoders(work, pool)
    if not (work / "text_encoder").exists():
        train_text_encoder(pool, tokenizer, work / "text_encoder", seed=seed)
    return (
        tokenizer,
        AutoencoderKL.from_pretrained(work / "vae").eval(),
        CLIPTextModel.from_pretrained(work / "text_encoder", dtype=torch.float32).eval(),
    )


def _train_autoencoders(work: Path, pool: Pool) -> None:
    """Train the one of half the size, and from it the shipped one."""
    small = work / "vae-half"
    if not small.exists():
        train_autoencoder(pool, small)
    half, latents = AutoencoderKL.from_pretrained(small).eval(), work / f"latents-half-{len(pool)}.safetensors"
    train_doubled(pool, encode_pool(half, pool, pool.size // 2, latents), half, work / "vae")


def train(
    work: Path,
    *,
    start: Path | None = None,
    seed: int = 0,
    scenes: int = SCENES,
    phases: Sequence[Phase] = PHASES,
    more: int = 0,
    processes: int = 1,
    compiled: bool = True,
) -> None:
    """Run the recipe in `work`, resuming whatever stands there.

    Args:
        work: Folder of parts and checkpoints.
        start: A pipeline folder that `export` wrote, taken up where `work` is new and it was trained on the same
            world with the same seed; None starts from nothing.
        seed: Of the text tower and the denoiser; another one makes a sibling on the same scenes.
        scenes: Training scenes.
        phases: Phases of the denoiser.
        more: Iterations beyond those phases, at the last one's batch and last rate.
        processes: Processes of one thread each that train the denoiser together.
        compiled: Compile a part of the denoiser where there is a C++ compiler: minutes, which pay in a long run.

    Raises:
        OptionError: what stands in `work` was made for another world, by another recipe or with another seed, or no
            iteration is left.
    """
    phases = _longer(phases, more)
    if work.exists() and not work.is_dir():
        raise OptionError(f"{work} is a file: expected a new or an existing folder")
    work.mkdir(parents=True, exist_ok=True)
    identity = {"world": WORLD, "recipe": RECIPE, "seed": seed}
    _check(work, identity)
    if start is not None and not (work / "vae").exists() and identity.items() <= _training_of(start).items():
        take_up(start, work)
    checkpoint = checkpoint_of(work / "unet")
    _check_left(checkpoint, _iterations(phases))
    _, autoencoder, _ = _parts(work, Pool(work, scenes), seed)
    for size, end in _stretches(phases):
        if _standing(checkpoint) >= end:
            continue
        latents = _latents(work, size, scenes)
        encode_pool(autoencoder, Pool(work, scenes), size, latents)
        run = partial(
            _train_denoiser, work=work, size=size, scenes=scenes, phases=phases, end=end, seed=seed, compiled=compiled
        )
        if processes == 1:
            run(0, processes=1)
        else:
            os.environ.setdefault(*_LARGE_PAGES)  # read when a process starts
            _meeting(work).unlink(missing_ok=True)  # of a run that was broken off: it would be waited for
            spawn(partial(run, processes=processes), nprocs=processes)


def _stretches(phases: Sequence[Phase]) -> list[tuple[int, int]]:
    """Size of the pictures and last iteration of every run of phases of one size."""
    found, end = [], 0
    for size, group in itertools.groupby(phases, lambda phase: phase.size):
        end += sum(phase.iterations for phase in group)
        found.append((size, end))
    return found


def _train_denoiser(
    rank: int,
    *,
    work: Path,
    size: int,
    scenes: int,
    phases: Sequence[Phase],
    end: int,
    seed: int,
    compiled: bool,
    processes: int,
) -> None:
    """One process of the denoiser's training, on pictures of one size."""
    if processes > 1:
        torch.set_num_threads(1)
        torch.distributed.init_process_group(
            "gloo", f"file://{_meeting(work).resolve()}", rank=rank, world_size=processes
        )
    pool = Pool(work, scenes)
    tokenizer, _, encoder = _parts(work, pool, seed)
    training = DenoiserTraining(
        work / "unet",
        load_tensors(_latents(work, size, scenes))["latents"].cpu(),
        Captions(pool.captions, tokenizer, encoder, torch.bfloat16 if multiplies_bfloat16() else torch.float32),
        peers=Peers(rank, processes),
        seed=seed,
        compiled=compiled and shutil.which("g++") is not None,
        chances=chances(classes_shown(pool.labels)),
    )
    training.run(phases, until=end)
    if processes > 1:
        torch.distributed.destroy_process_group()


def _meeting(work: Path) -> Path:
    """File by which the processes find each other."""
    return work / "meeting.partial"


def _latents(work: Path, size: int, scenes: int) -> Path:
    return work / f"latents-{size}-{scenes}.safetensors"


def _longer(phases: Sequence[Phase], more: int) -> tuple[Phase, ...]:
    """Phases with so many iterations more, if any, as the last one ended."""
    last = phases[-1]
    return (*phases, Phase(more, last.size, last.batch, last.last_rate, last.last_rate)) if more > 0 else tuple(phases)


def _iterations(phases: Sequence[Phase]) -> int:
    return sum(phase.iterations for phase in phases)


def _standing(checkpoint: Path) -> int:
    """Iteration of a checkpoint; 0 where there is none."""
    return int(load_tensors(checkpoint)["iteration"]) if checkpoint.exists() else 0


def _check_left(checkpoint: Path, iterations: int) -> None:
    """Before scenes are rendered, which takes minutes."""
    standing = _standing(checkpoint)
    if standing >= iterations:
        raise OptionError(
            f"{checkpoint} stands at iteration {standing} of {iterations}: expected some that are left; ask for "
            "further ones with --more N, or begin from nothing with --from-scratch in another folder"
        )


def _check(work: Path, identity: dict[str, int]) -> None:
    stamp = work / "identity.json"
    known = json.loads(stamp.read_text()) if stamp.exists() else "an unknown world"
    if known != identity and any(work.iterdir()):
        raise OptionError(
            f"folder {work} holds parts made for {known}, asked for was {identity}: expected an empty folder or one "
            "of the same world, recipe and seed; choose another --work-dir"
        )
    stamp.write_text(json.dumps(identity))


def train_oracles_in(
    work: Path, folder: Path, model: str | Path, start: Path | None = None, processes: int = 1
) -> None:
    """Train the oracles on the scenes in `work`, with a trained model's pictures, on from `start` or from nothing.

    Raises:
        OptionError: what stands in `work` was made for another world, or oracles of another model lie in `folder`.
        ModelNotFoundError: none lie in `start`.
    """
    if start is not None:
        load_oracles(start)  # before scenes are rendered, which takes minutes
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "identity.json").exists():
        _check(work, {"world": WORLD, "recipe": RECIPE, "seed": 0})
    _check(work, _identity(work) | {"world": WORLD, "recipe": RECIPE})
    imitated, judged = Pool(work, SCENES), Pool(work, JUDGED, "judging")
    train_oracles(imitated, judged, load(model), work, folder, start=start, processes=processes)


def _identity(work: Path) -> dict[str, int]:
    identity: dict[str, int] = json.loads((work / "identity.json").read_text())
    return identity


def take_up(folder: Path, work: Path) -> None:
    """Lay out the parts of a shipped pipeline in `work` as if its training had just been broken off."""
    pipe = load(folder)
    pipe.text_encoder.save_pretrained(work / "text_encoder")
    pipe.tokenizer.save_pretrained(work / "tokenizer")
    for name in _TOWERS:
        if (folder / name).exists():
            save_tensors({key: value.float() for key, value in load_tensors(folder / name).items()}, work / name)
    about = _training_of(folder)
    (work / _HISTORY).write_text(about["history"])
    tensors = {f"ema.{name}": value for name, value in pipe.unet.state_dict().items()}
    save_tensors(tensors | {"iteration": torch.tensor(about["iterations"])}, checkpoint_of(work / "unet"))
    pipe.vae.save_pretrained(work / "vae.partial")
    (work / "vae.partial").rename(work / "vae")  # the last, and whole: where it lies nothing is taken up again


def _training_of(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return about


def export(work: Path, folder: Path) -> None:
    """Put the parts in `work`, as far as they are trained, together as a pipeline folder in float16 safetensors.

    Args:
        work: Folder of parts and checkpoints.
        folder: Gets the pipeline.

    Raises:
        OptionError: something was not trained in `work`.
    """
    lacking = [name for name in ("vae", "text_encoder", "tokenizer") if not (work / name).is_dir()]
    if lacking or not checkpoint_of(work / "unet").exists():
        raise OptionError(
            f"folder {work} lacks {', '.join(lacking) or 'a checkpoint of the unet'}: expected what "
            f"`python -m lab.mini train --work-dir {work}` leaves"
        )
    unet = build_unet()
    iterations = averaged(unet, work / "unet")
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(dtype=torch.float16).save_pretrained(folder)
    for name in _TOWERS:
        if (work / name).exists():
            save_tensors({key: value.half() for key, value in load_tensors(work / name).items()}, folder / name)
    for config in folder.glob("*/config.json"):
        _forget_folder(config)
    _load_in_float32(folder / "text_encoder" / "config.json")
    _name_as_ever(folder / "text_encoder" / "model.safetensors")
    notes = work / _HISTORY
    about = {
        **_identity(work),
        "iterations": iterations,
        "phases": [asdict(phase) for phase in _longer(PHASES, iterations - _iterations(PHASES))],
        "scenes": SCENES,
        "history": notes.read_text().strip() if notes.exists() else "nothing was changed on the way.",
    }
    (folder / "training.json").write_text(json.dumps(about, indent=2) + "\n")


def _forget_folder(config: Path) -> None:
    """Diffusers notes where a part was loaded from, which says something of this machine alone."""
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _load_in_float32(config: Path) -> None:
    """Transformers loads a text encoder in the type its config names, diffusers the rest in float32: name that."""
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n")


def _name_as_ever(file: Path) -> None:
    """Name a text encoder's weights as published checkpoints do, `text_model.`..., which every transformers reads.

    Newer versions write them without it; older ones find none of those, and go on with random weights.
    """
    tensors = {"text_model." + name.removeprefix("text_model."): value for name, value in load_tensors(file).items()}
    save_tensors(tensors, file, format="pt")
