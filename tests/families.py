"""README's table of families and features, each cell with the test behind it: `python tests/families.py` writes it."""

from pathlib import Path

from ovam.backbones.base import Backbone
from ovam.backbones.registry import BACKBONES

README = Path(__file__).parent.parent / "README.md"
FIRST, LAST = "<!-- families -->\n", "<!-- written by `python tests/families.py` -->\n"
CONTRACT = "tests/test_contract.py"

FAMILIES = {
    "Stable Diffusion 1.x": ("StableDiffusionPipeline", "TestStableDiffusion1"),
    "Stable Diffusion 2.x": ("StableDiffusionPipeline", "TestStableDiffusion2"),
    "Stable Diffusion XL": ("StableDiffusionXLPipeline", "TestStableDiffusionXL"),
    "PixArt alpha": ("PixArtAlphaPipeline", "TestPixArtAlpha"),
    "PixArt Sigma": ("PixArtSigmaPipeline", "TestPixArtSigma"),
    "Stable Diffusion 3": ("StableDiffusion3Pipeline", "TestStableDiffusion3"),
    "Stable Diffusion 3.5": ("StableDiffusion3Pipeline", "TestStableDiffusion35"),
    "FLUX.1": ("FluxPipeline", "TestFluxWithTrueGuidance"),
}
"""For each family its pipeline's class name, and the class of its contract tests."""

FEATURES = {
    "image as without capture": "test_capture_does_not_touch_the_image",
    "late words": "test_keys_of_the_prompt_are_those_the_kernel_receives",
    "given words": "test_stream_equals_the_maps_of_a_capture",
    "both halves": "test_halves_of_guidance",
    "any size": "test_sizes_that_are_not_square",
    "optimised tokens": "test_a_planted_token_is_recovered",
}
"""What the contract tests show of every family, and by which test."""

REAL_IMAGES = {
    "StableDiffusionPipeline": "tests/test_encode.py",
    **dict.fromkeys(("StableDiffusion3Pipeline", "FluxPipeline"), "tests/test_inversion.py"),
    **dict.fromkeys(
        ("StableDiffusionXLPipeline", "PixArtAlphaPipeline", "PixArtSigmaPipeline"), "tests/test_static_families.py"
    ),
}


def table() -> str:
    """The table's lines; a cell's test is the column's, of the row's class or file."""
    backbones = {name: backbone for backbone in BACKBONES for name in backbone.pipelines}
    lines = [("family", *FEATURES, "tests of the family", "real images")]
    lines.append(("---",) * len(lines[0]))
    lines.append(("*shown by*", *(f"`{test}`" for test in FEATURES.values()), f"[contract]({CONTRACT})", ""))
    for family, (pipeline, tests) in FAMILIES.items():
        backbone = backbones[pipeline]
        words = {"late words": "exact" if backbone.text_kind == "static" else "by replay"}
        sees = backbone.conditions is not Backbone.conditions
        images = f"[yes]({REAL_IMAGES[pipeline]})" if sees else "-"
        lines.append((family, *(words.get(name, "yes") for name in FEATURES), f"`{tests}`", images))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def written(page: str) -> str:
    """The page with the table between its marks."""
    before, rest = page.split(FIRST)
    return before + FIRST + table() + LAST + rest.split(LAST)[1]


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
