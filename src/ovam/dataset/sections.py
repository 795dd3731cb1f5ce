"""Sections of a recipe. The help of a field is also that of the command line's flag, and the comment in the file."""

from dataclasses import dataclass, fields

from ovam.dataset.fields import check_section, option
from ovam.defaults import CHOSEN
from ovam.errors import RecipeError

_HELD = CHOSEN["refine"]
_MANY_PIXELS = 100_000_000
METHODS = ("daam", "attn2mask", "published-ovam", "dataset-diffusion")
"""Published methods that need no weights of their own."""
_WITH_METHODS = ("method", "tokens", "against", "against_place", "refine", "votes", "agreement")
"""Fields of masks that may be given with a method; refinement is left out then."""
IDS = 254
"""Largest number of a class: a mask has 8 bits, 0 is the background and 255 is undecided."""


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """What the data set is: its name, number of images, and classes.

    Raises:
        RecipeError: a value is not allowed.
    """

    name: str = option("my data set", "Name of the data set, for its card.")
    number: int = option(200, "Number of images.", least=1, most=10**9)
    seed: int = option(0, "Decides prompts, seeds and splits, together with the rest of the recipe.")
    licence: str = option("", "Licence of the pictures and masks, for the card.")
    vocabulary: str = option("", "voc or coco: take the classes and numbers from there.", choices=("", "voc", "coco"))
    classes: tuple[str, ...] = option((), "Some classes of the vocabulary, or your own, numbered from 1.")

    def __post_init__(self) -> None:
        check_section(self)
        if not self.name.strip():
            raise RecipeError(f"name={self.name!r}: expected a text that is not empty")


@dataclass(frozen=True, kw_only=True)
class PromptSection:
    """What the images show: templates, or captions of a file.

    Raises:
        RecipeError: a value is not allowed, or two are not compatible.
    """

    templates: tuple[str, ...] = option(
        ("a photo of {things} on the {place}", "a photo of {things}"),
        "Prompts; {things} becomes the classes with their articles, {place} one of the places.",
    )
    places: tuple[str, ...] = option(("grass", "sand", "road", "floor"), "What {place} can become.")
    captions: str = option(
        "", "File of captions instead of templates: .txt, .csv, .jsonl, or COCO's .json.", files=True
    )
    without_class: str = option(
        "refuse", "Captions that name no class: refuse the file, or skip them.", choices=("refuse", "skip")
    )
    synonyms: bool = option(True, "Whether templates use all words of a class, or only the first.")
    least_things: int = option(1, "Fewest classes in one prompt of a template.", least=1, most=IDS)
    most_things: int = option(2, "Most classes in one prompt of a template.", least=1, most=IDS)
    append_classes: bool = option(False, "Whether the words of the classes are repeated at the end of each prompt.")

    def __post_init__(self) -> None:
        check_section(self)
        if self.least_things > self.most_things:
            raise RecipeError(
                f"least_things={self.least_things}: expected at most most_things={self.most_things}; exchange them"
            )
        if not self.captions:
            self._check_templates()

    def _check_templates(self) -> None:
        if not self.templates:
            raise RecipeError("templates=[]: expected at least one template, or captions")
        for template in self.templates:
            left = template.replace("{things}", "").replace("{place}", "")
            if "{things}" not in template:
                raise RecipeError(f"template {template!r} has no class in it: expected {{things}} somewhere")
            if "{" in left or "}" in left:
                raise RecipeError(f"template {template!r}: expected no braces but {{things}} and {{place}}")
            if "{place}" in template and not self.places:
                raise RecipeError(f"template {template!r} needs places: expected at least one, or no {{place}}")


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """The model and its run.

    Raises:
        RecipeError: a value is not allowed.
    """

    model: str = option("mini", "mini, the folder of a diffusers pipeline, or a model id.")
    num_inference_steps: int = option(30, "Steps of the sampling loop.", least=1, most=10_000)
    guidance_scale: float = option(7.5, "Weight of the prompt.", most=1000)
    negative_prompt: str = option("", "What to avoid.")
    height: int = option(0, "Height in pixels; 0 is the model's own.", most=100_000)
    width: int = option(0, "Width in pixels; 0 is the model's own.", most=100_000)
    dtype: str = option("float32", "Type of the weights.", choices=("float32", "float16", "bfloat16"))
    batch: int = option(8, "Images that are generated together: one unit of work.", least=1, most=1024)

    def __post_init__(self) -> None:
        check_section(self)


@dataclass(frozen=True, kw_only=True)
class MaskSection:
    """How masks are made.

    Raises:
        RecipeError: a value is not allowed, or two are not compatible.
    """

    method: str = option(
        "",
        "A published method that makes the masks, with its own numbers, instead of maps, refinement and CRF of ovam; "
        "then only tokens and contrast words count of the fields below.",
        choices=("", *METHODS),
    )
    tokens: tuple[str, ...] = option((), "Files of optimised tokens; classes without a token use words.", files=True)
    against: tuple[str, ...] = option((), "Contrast words for all images; what they win becomes background.")
    against_place: bool = option(True, "Whether the place that a template names is a contrast word too.")
    refine: bool = option(True, "Whether the image's self-attention refines the maps.")
    refine_method: str = option(
        str(_HELD["method"]), "How maps are refined.", choices=("powers", "restart", "sharpened")
    )
    products: int = option(int(_HELD["products"]), "Products with the self-attention.", least=1, most=1000)
    self_attention_every: int = option(
        5,
        "Self-attention is averaged over every n-th denoiser call of a run; 1 takes all, which is slower.",
        least=1,
        most=1000,
    )
    crf: bool = option(False, "Whether a dense CRF makes masks follow the picture's edges.")
    threshold: float = option(0.5, "Score of the background.", least=0.001, most=0.999)
    ignore: float = option(0.0, "Pixels whose best score is nearer than this to the background's are 255.", most=0.499)
    ignore_changed: bool = option(
        True,
        "Whether pixels whose class refinement or CRF changed are 255, undecided. With false, masks are whole; that is "
        "better for COCO, panoptic and YOLO exports, where undecided pixels become background.",
    )
    presence: float = option(0.0, "Classes with less presence get no pixels.", most=0.999)
    min_area: int = option(0, "Pieces with fewer pixels are removed.", most=_MANY_PIXELS)
    max_hole: int = option(0, "Holes of up to this many pixels are filled.", most=_MANY_PIXELS)
    votes: int = option(
        0,
        "Number of further masks of each finished picture, each with other noise; pixels on which the masks do not "
        "all agree are 255.",
        most=100,
    )
    agreement: bool = option(False, "Whether masks of words and of tokens are compared, as a score for filters.")

    def __post_init__(self) -> None:
        check_section(self)
        usual = {one.name: one.default for one in fields(self) if one.name not in _WITH_METHODS}
        given = [name for name, value in usual.items() if getattr(self, name) != value]
        if self.method and given:
            raise RecipeError(
                f"{given[0]}={getattr(self, given[0])!r} with method={self.method!r}, which has maps and masks of its "
                f"own: expected one of the two; leave {given[0]} out"
            )
        if self.agreement and not self.tokens:
            raise RecipeError("agreement=true compares masks of words and of tokens: expected tokens as well")


@dataclass(frozen=True, kw_only=True)
class FilterSection:
    """Which items `ovam dataset filter` keeps. Nothing here changes what is generated.

    Raises:
        RecipeError: a value is not allowed.
    """

    least_grey: float = option(4.0, "Least standard deviation of the grey values; takes out flat pictures.", most=255)
    least_area_quantile: float = option(0.0, "Masks below this quantile of their class's areas are taken out.", most=1)
    most_area_quantile: float = option(1.0, "Masks above this quantile of their class's areas are taken out.", most=1)
    empty: bool = option(False, "Whether to keep items in which a class has no pixel.")
    least_presence: float = option(0.0, "Least presence of each class.", most=1)
    least_confidence: float = option(0.0, "Least mean score inside the mask of each class.", most=1)
    least_stability: float = option(0.0, "Least IoU of each mask with itself at thresholds 0.1 apart.", most=1)
    least_unrefined: float = option(
        0.0,
        "Least IoU of each mask with the mask before refinement and CRF: great changes are often wrong.",
        most=1,
    )
    least_unrefined_quantile: float = option(
        0.0,
        "Share of the items to take out: those with the lowest unrefined scores, separately for items with one class, "
        "with two and so on.",
        most=1,
    )
    least_agreement: float = option(0.0, "Least IoU of the masks of word and token.", most=1)
    least_vote: float = option(
        0.0, "Least share of a class's pixels on which all masks of a picture agree; needs `votes`.", most=1
    )
    least_clip: float = option(
        0.0, "Least probability of each class by CLIP, which `ovam dataset score` computes.", most=1
    )
    least_clip_quantile: float = option(
        0.0,
        "Share of the items to take out: those with the lowest CLIP scores, separately for items with one class, with "
        "two and so on.",
        most=1,
    )
    most_ignored: float = option(1.0, "Largest share of the pixels that may be undecided.", most=1)
    duplicates: int = option(
        -1,
        "If the hashes of pictures differ in at most this many of 128 bits, only one stays; -1 keeps all.",
        least=-1,
        most=32,
    )

    def __post_init__(self) -> None:
        check_section(self)
        if self.least_area_quantile >= self.most_area_quantile:
            raise RecipeError(
                f"least_area_quantile={self.least_area_quantile:g}: expected less than "
                f"most_area_quantile={self.most_area_quantile:g}"
            )


@dataclass(frozen=True, kw_only=True)
class SplitSection:
    """Shares of the splits; near duplicates always share a split.

    Raises:
        RecipeError: a value is not allowed, or all are 0.
    """

    train: float = option(0.9, "Weight of the training split.", most=1e6)
    validation: float = option(0.1, "Weight of the validation split.", most=1e6)
    test: float = option(0.0, "Weight of the test split.", most=1e6)
    split_distance: int = option(
        6,
        "Pictures whose hashes differ in at most this many of 128 bits share a split; -1 turns this off.",
        least=-1,
        most=32,
    )

    def __post_init__(self) -> None:
        check_section(self)
        if not self.train + self.validation + self.test:
            raise RecipeError("train=0, validation=0, test=0: expected at least one weight above 0")
