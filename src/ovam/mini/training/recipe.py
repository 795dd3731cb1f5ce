"""The whole recipe, stage after stage; each stage is skipped when its result lies in the work folder."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline, StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from ovam.errors import OptionError
from ovam.mini.oracle import load_oracles
from ovam.mini.scenes import WORLD
from ovam.mini.training import dit, unet
from ovam.mini.training.autoencoder import encode_pool, train_autoencoder
from ovam.mini.training.denoiser import DenoiserTraining, Objective, Phase, averaged, checkpoint_of
from ovam.mini.training.loop import load_tensors, save_tensors
from ovam.mini.training.oracles import JUDGED, train_oracles
from ovam.mini.training.pool import Pool
from ovam.mini.training.text_tower import PictureTower, load_picture_tower, picture_tower_of, train_text_encoder
from ovam.mini.training.tokenizer import train_tokenizer
from ovam.models import MINI, MINI_DIT, load

SCENES = 40_000
_HISTORY = "history.txt"  # kept by hand where a run was changed on its way


@dataclass(frozen=True)
class _Denoiser:
    """What tells one model of the family from another; the rest of the recipe is the same."""

    part: str  # of the pipeline, and the name of its checkpoint
    objective: Callable[[CLIPTextModel, PictureTower, CLIPTokenizer], Objective]
    phases: tuple[Phase, ...]


_DENOISERS = {
    MINI: _Denoiser("unet", unet.NoisePrediction, unet.PHASES),
    MINI_DIT: _Denoiser("transformer", lambda encoder, tower, _: dit.FlowMatching(encoder, tower), dit.PHASES),
}


def _parts(work: Path, pool: Pool, seed: int) -> tuple[CLIPTokenizer, AutoencoderKL, CLIPTextModel]:
    if not (work / "tokenizer").exists():
        train_tokenizer().save_pretrained(work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    if not (work / "vae").exists():
        train_autoencoder(pool, work / "vae")
    if not (work / "text_encoder").exists():
        train_text_encoder(pool, tokenizer, work / "text_encoder", seed=seed)
    return (
        tokenizer,
        AutoencoderKL.from_pretrained(work / "vae").eval(),
        CLIPTextModel.from_pretrained(work / "text_encoder").eval(),
    )


def train(
    work: Path,
    *,
    model: str = MINI,
    start: Path | None = None,
    seed: int = 0,
    scenes: int = SCENES,
    phases: tuple[Phase, ...] | None = None,
    more: int = 0,
) -> None:
    """Run the recipe in `work`, resuming whatever stands there.

    Args:
        work: Folder of parts and checkpoints. Two models may be trained in one, on the same parts.
        model: Whose denoiser is trained: "mini" or "mini-dit".
        start: A pipeline folder that `export` wrote, taken up where `work` is new and it was trained on the same
            world with the same seed; None starts from nothing. Of mini, which gives mini-dit its other parts as well.
        seed: Of the text tower and the denoiser; another one makes a sibling on the same scenes.
        scenes: Training scenes.
        phases: Phases of the denoiser; the recipe's own by default.
        more: Iterations beyond those phases, on pictures of the last one's sizes.

    Raises:
        OptionError: what stands in `work` was made for another world or with another seed, there is no such model, or
            no iteration is left.
    """
    denoiser = _denoiser(model)
    phases = denoiser.phases if phases is None else phases
    phases = _longer(phases, more)
    if work.exists() and not work.is_dir():
        raise OptionError(f"{work} is a file: expected a new or an existing folder")
    work.mkdir(parents=True, exist_ok=True)
    identity = {"world": WORLD, "seed": seed}
    _check(work, identity)
    if start is not None and not (work / "vae").exists() and identity.items() <= _training_of(start).items():
        take_up(start, work)
    _check_left(checkpoint_of(work / denoiser.part), _iterations(phases))
    pool = Pool(work, scenes)
    tokenizer, autoencoder, encoder = _parts(work, pool, seed)
    latents = {
        size: encode_pool(autoencoder, pool, size, work / f"latents-{size}-{scenes}.safetensors")
        for size in {size for phase in phases for size, _ in phase.sizes}
    }
    tower = load_picture_tower(work / "text_encoder", encoder.config.hidden_size)
    run = DenoiserTraining(
        work / denoiser.part, lambda: denoiser.objective(encoder, tower, tokenizer), latents, pool, tokenizer, seed=seed
    )
    run.run(phases)


def _longer(phases: tuple[Phase, ...], more: int) -> tuple[Phase, ...]:
    """Phases with so many iterations more, if any, on pictures of the last one's sizes."""
    return (*phases, Phase(more, phases[-1].sizes)) if more > 0 else phases


def _iterations(phases: tuple[Phase, ...]) -> int:
    return sum(phase.iterations for phase in phases)


def _check_left(checkpoint: Path, iterations: int) -> None:
    """Before scenes are rendered, which takes minutes."""
    standing = int(load_tensors(checkpoint)["iteration"]) if checkpoint.exists() else 0
    if standing >= iterations:
        raise OptionError(
            f"{checkpoint} stands at iteration {standing} of {iterations}: expected some that are left; ask for "
            "further ones with --more N, or begin from nothing with --from-scratch in another folder"
        )


def _denoiser(model: str) -> _Denoiser:
    if model not in _DENOISERS:
        raise OptionError(f"model {model!r} has no recipe: expected {' or '.join(map(repr, _DENOISERS))}")
    return _DENOISERS[model]


def _check(work: Path, identity: dict[str, int]) -> None:
    stamp = work / "identity.json"
    known = json.loads(stamp.read_text()) if stamp.exists() else "an unknown world"
    if known != identity and any(work.iterdir()):
        raise OptionError(
            f"folder {work} holds parts made for {known}, asked for was {identity}: "
            "expected an empty folder or one of the same world and seed; choose another --work-dir"
        )
    stamp.write_text(json.dumps(identity))


def train_oracles_in(work: Path, folder: Path, model: str | Path, start: Path | None = None) -> None:
    """Train the oracles on the scenes in `work`, with a trained model's pictures, on from `start` or from nothing.

    Raises:
        OptionError: what stands in `work` was made for another world, or oracles of another model lie in `folder`.
        ModelNotFoundError: none lie in `start`.
    """
    if start is not None:
        load_oracles(start)  # before scenes are rendered, which takes minutes
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "identity.json").exists():
        _check(work, {"world": WORLD, "seed": 0})
    _check(work, _identity(work) | {"world": WORLD})
    train_oracles(Pool(work, SCENES), Pool(work, JUDGED, "judging"), load(model), work, folder, start=start)


def _identity(work: Path) -> dict[str, int]:
    identity: dict[str, int] = json.loads((work / "identity.json").read_text())
    return identity


def take_up(folder: Path, work: Path) -> None:
    """Lay out the parts of a shipped pipeline in `work` as if its training had just been broken off."""
    pipe = load(folder)
    pipe.text_encoder.save_pretrained(work / "text_encoder")
    pipe.tokenizer.save_pretrained(work / "tokenizer")
    shutil.copy(picture_tower_of(folder / "text_encoder"), picture_tower_of(work / "text_encoder"))
    about = _training_of(folder)
    (work / _HISTORY).write_text(about["history"])
    weights = pipe.unet.state_dict()
    tensors = {f"{kind}.{name}": value.clone() for kind in ("raw", "ema") for name, value in weights.items()}
    save_tensors(tensors | {"iteration": torch.tensor(about["iterations"])}, checkpoint_of(work / "unet"))
    pipe.vae.save_pretrained(work / "vae.partial")
    (work / "vae.partial").rename(work / "vae")  # the last, and whole: where it lies nothing is taken up again


def _training_of(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return about


def export(work: Path, folder: Path, *, model: str = MINI) -> None:
    """Put the parts in `work`, as far as they are trained, together as a pipeline folder in float16 safetensors.

    Args:
        work: Folder of parts and checkpoints.
        folder: Gets the pipeline.
        model: "mini" or "mini-dit".

    Raises:
        OptionError: there is no such model, or it was not trained in `work`.
    """
    denoiser = _denoiser(model)
    lacking = [name for name in ("vae", "text_encoder", "tokenizer") if not (work / name).is_dir()]
    if lacking or not checkpoint_of(work / denoiser.part).exists():
        raise OptionError(
            f"folder {work} lacks {', '.join(lacking) or 'a checkpoint of the ' + denoiser.part}: expected what "
            f"`ovam mini train --model {model} --work-dir {work}` leaves"
        )
    parts = {
        "vae": AutoencoderKL.from_pretrained(work / "vae"),
        "text_encoder": CLIPTextModel.from_pretrained(work / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(work / "tokenizer"),
    }
    assemble = _pipeline if model == MINI else _joint_pipeline
    pipe, iterations = assemble(parts, work)
    pipe.to(dtype=torch.float16).save_pretrained(folder)
    for config in folder.glob("*/config.json"):
        _forget_folder(config)
    for config in folder.glob("text_encoder*/config.json"):
        _load_in_float32(config)
    if model == MINI:
        _name_as_ever(folder / "text_encoder" / "model.safetensors")
        tower = load_tensors(picture_tower_of(work / "text_encoder"))
        halves = {name: value.half() for name, value in tower.items()}
        save_tensors(halves, picture_tower_of(folder / "text_encoder"))  # to go on from, diffusers does not read it
    notes = work / _HISTORY
    told = notes.read_text().strip() if model == MINI and notes.exists() else "nothing was changed on the way."
    about = {
        **_identity(work),
        "iterations": iterations,
        "phases": [asdict(phase) for phase in _longer(denoiser.phases, iterations - _iterations(denoiser.phases))],
        "scenes": SCENES,
        "history": told,
    }
    (folder / "training.json").write_text(json.dumps(about, indent=2) + "\n")


def _pipeline(parts: dict[str, Any], work: Path) -> tuple[StableDiffusionPipeline, int]:
    """mini, and the iteration it is of."""
    model = unet.build_unet()
    iterations = averaged(model, work / "unet")
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, unet=model, scheduler=unet.build_scheduler(), **options), iterations


def _joint_pipeline(parts: dict[str, Any], work: Path) -> tuple[StableDiffusion3Pipeline, int]:
    """mini-dit, and the iteration it is of."""
    model, tower = dit.build_dit(), parts["text_encoder"]
    iterations = averaged(model, work / "transformer")
    parts["vae"].register_to_config(shift_factor=0.0)  # which this pipeline asks for
    parts["text_encoder"] = dit.with_projection(tower)
    return (
        StableDiffusion3Pipeline(
            **parts,
            text_encoder_2=dit.blank_encoder(tower),
            tokenizer_2=parts["tokenizer"],
            text_encoder_3=dit.blank_t5(),
            tokenizer_3=dit.blank_tokenizer(),
            transformer=model,
            scheduler=dit.build_flow_scheduler(),
        ),
        iterations,
    )


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
