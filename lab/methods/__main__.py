"""`python -m lab.methods agree|train`: the library's methods beside their authors' own code, and training of some."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from lab.markdown import table
from lab.measure import stamp
from lab.methods import page, train, with_daam, with_dataset_diffusion
from lab.methods.comparison import Agreement, Run, table_rows
from ovam.models import load
from ovam.tensor_file import fingerprint


def main(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        SystemExit: no checkout was given, or something differs by more than is allowed.
    """
    if arguments[:1] == ["train"]:
        train.main(arguments[1:])
        return
    given = _parser().parse_args(arguments)
    if given.daam is None and given.dataset_diffusion is None:
        raise SystemExit("expected a checkout of the authors' code: --daam PATH, --dataset-diffusion PATH, or both")
    pipe = load(given.model)
    pipe.set_progress_bar_config(disable=True)
    run, found = Run(pipe, steps=given.steps), list[Agreement]()
    if given.daam is not None:
        found += with_daam.agreements(run, given.daam)
    if given.dataset_diffusion is not None:
        found += with_dataset_diffusion.agreements(run, given.dataset_diffusion)
    print(table(page.HEADER, table_rows(found)))
    if given.docs is not None:
        command = f"python -m lab.methods agree --model {Path(given.model).name} --steps {given.steps}"
        made = {**stamp(command), "model": _hash_of(pipe)}
        result = {"stamp": made, "agreements": [one.as_json() for one in found]}
        page.write(given.docs, result)
    if not all(one.holds for one in found):
        raise SystemExit("some differences are larger than allowed")


def _hash_of(pipe: Any) -> str:
    parts = {"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder}
    return fingerprint({f"{name}.{key}": t for name, part in parts.items() for key, t in part.state_dict().items()})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.methods", description=__doc__)
    parser.add_argument("command", choices=["agree", "train"])
    parser.add_argument("--model", default="mini", help="mini, a folder or an id of Stable Diffusion 1 or 2")
    parser.add_argument("--steps", type=int, default=10, help="denoising steps")
    parser.add_argument("--daam", type=Path, metavar="PATH", help="checkout of castorini/daam at 09564e0")
    parser.add_argument(
        "--dataset-diffusion", type=Path, metavar="PATH", help="checkout of VinAIResearch/Dataset-Diffusion at 00866c4"
    )
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="write the table into methods.md of this folder")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
