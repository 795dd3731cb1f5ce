"""The world: captioned scenes with exact labels, parts and instances, each a pure function of its seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from ovam.errors import OptionError
from ovam.mini.scenes import domain_b
from ovam.mini.scenes.animals import ANIMALS, draw_animal
from ovam.mini.scenes.captions import caption
from ovam.mini.scenes.company import HOME, STRICT, choose_company
from ovam.mini.scenes.difficulty import CALM, Difficulty, difficulty_of
from ovam.mini.scenes.furnishings import draw_furnishing
from ovam.mini.scenes.grounds import noise, paint_ground
from ovam.mini.scenes.people import draw_bird, draw_person
from ovam.mini.scenes.sketch import Figure
from ovam.mini.scenes.splits import HEADS, Look, Split, check_split, choose_look
from ovam.mini.scenes.sprites import load_sprites
from ovam.mini.scenes.vehicles import VEHICLES, draw_vehicle
from ovam.mini.scenes.vocabulary import DISTRACTORS, LABELS, PARTS, UNKNOWN_PART, label_of

_SMALL_SIZES, _TOY_SIZES = (0.16, 0.34), (0.08, 0.2)
_CLOSE_SHARE = 0.15
LEAST_VISIBLE, LEAST_AREA, MOST_AREA = 0.4, 0.01, 0.5
_ATTEMPTS = 12

SIDE = 128
"""Height and width of a picture in pixels, if no other size is given: those of the embedded model's pictures."""

Context = Literal["canonical", "counterfactual", "free"]
_Chosen = tuple[Figure, Look, bool, bool]


@dataclass(frozen=True)
class SceneObject:
    """One named thing.

    Attributes:
        name: Its class.
        look: "drawn-2", or "emoji-🐈".
        novel: Training never shows this look.
        colour: Its colour word, where it has one.
        close: A head, or head and shoulders, instead of the whole thing.
        box_xyxy: Left, top, right, bottom in pixels, before occlusion.
        area: Visible share of the picture's pixels.
        visible: Share of its own pixels that nothing covers.
        parts: Names of the known parts in view.
    """

    name: str
    look: str
    novel: bool
    colour: str | None
    close: bool
    box_xyxy: tuple[int, int, int, int]
    area: float
    visible: float
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Attributes:
        seed: Names the scene.
        split: The split it belongs to.
        image: (height, width, 3) uint8.
        labels: (height, width) uint8 of `LABELS`.
        parts: (height, width) uint8 of `PARTS`; 0 is no part, `UNKNOWN_PART` fills a thing whose parts are not known.
        instances: (height, width) uint8; number i is `objects[i - 1]`, 0 is none.
        caption: One caption.
        objects: The named things.
        distractors: Names of the things that belong to no class.
        ground: What the things stand on.
        backdrop: What is above the horizon, or None.
    """

    seed: int
    split: Split
    image: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    parts: np.ndarray = field(repr=False)
    instances: np.ndarray = field(repr=False)
    caption: str
    objects: tuple[SceneObject, ...]
    distractors: tuple[str, ...]
    ground: str
    backdrop: str | None

    def mask(self, name: str) -> np.ndarray:
        """Return the mask of a class or ground: where it is visible, bool, (height, width).

        Raises:
            OptionError: there is no such class or ground.
        """
        return self.labels == label_of(name)

    def context(self, thing: SceneObject) -> Context:
        """Return "canonical" for a thing on its usual ground, else "counterfactual"; "free" if its class has none."""
        home, share = HOME[thing.name]
        if share < STRICT:
            return "free"
        return "canonical" if home == self.ground else "counterfactual"


@dataclass
class _Canvas:
    """A picture in the making, with its maps."""

    image: Image.Image
    labels: np.ndarray
    parts: np.ndarray
    instances: np.ndarray

    def paste(self, figure: Figure, at: tuple[int, int], label: int, instance: int) -> int:
        """Paste a figure and return the number of pixels it covers."""
        self.image.alpha_composite(figure.image, at)
        left, top = at
        window = np.s_[top : top + figure.image.height, left : left + figure.image.width]
        solid = np.asarray(figure.image.getchannel("A")) > 127
        solid = solid[: self.labels[window].shape[0], : self.labels[window].shape[1]]
        self.labels[window][solid] = label
        self.instances[window][solid] = instance
        self.parts[window][solid] = np.asarray(figure.parts)[: solid.shape[0], : solid.shape[1]][solid]
        return int(solid.sum())

    def shade(self, box: tuple[int, int, int, int], strength: float) -> None:
        """A soft shadow where a thing of this box stands."""
        left, _, right, bottom = box
        width = right - left
        shadow = Image.new("L", (max(4, width), max(3, width // 4)))
        y, x = np.mgrid[-1 : 1 : shadow.height * 1j, -1 : 1 : shadow.width * 1j]
        shadow = Image.fromarray((255 * strength * (1 - np.hypot(x, y)).clip(0, 1)).astype(np.uint8))
        self.image.paste((18, 18, 24, 255), (left, bottom - shadow.height * 2 // 3), shadow)


def render(seed: int, *, split: Split, size: int = SIDE, count: int | None = None) -> Scene:
    """Render the scene of a seed.

    Args:
        seed: Names the scene; `seed_of` gives the seeds of each split.
        split: The split that the scene is expected to belong to.
        size: Side of the square picture in pixels.
        count: Number of named things, 1 to 3; None draws it at random.

    Raises:
        SplitError: the seed belongs to another split.
        OptionError: there can't be so many things.
    """
    check_split(seed, split)
    if count is not None and count not in CALM.sides:
        raise OptionError(f"count={count}: expected {', '.join(map(str, CALM.sides))} named things in a scene, or None")
    rng = np.random.default_rng(seed)
    difficulty = difficulty_of(split, seed)
    names, ground = choose_company(rng, split, difficulty, count)
    for attempt in range(_ATTEMPTS):
        scene = _attempt(rng, seed, split, difficulty, size, names, ground, crowded=attempt < _ATTEMPTS // 2)
        if all(thing.visible >= LEAST_VISIBLE and LEAST_AREA <= thing.area <= MOST_AREA for thing in scene.objects):
            break
    return scene


def _attempt(
    rng: np.random.Generator,
    seed: int,
    split: Split,
    difficulty: Difficulty,
    size: int,
    names: list[str],
    ground: str,
    *,
    crowded: bool,
) -> Scene:
    """One arrangement; without the crowd nothing is put in front of the named things."""
    chosen: list[_Chosen] = []
    for name in names:
        chosen.append(_choose(rng, name, split, difficulty, names, [figure.colour for figure, *_ in chosen]))
    figures = [_pose(rng, figure, size * _side(rng, difficulty, len(names))) for figure, *_ in chosen]
    if split == "domain b":
        pixels, labels, backdrop = domain_b.paint_ground(rng, ground, size)
    else:
        colours = [_mean_colour(figure) for figure in figures]
        pixels, labels, backdrop = paint_ground(rng, ground, size, colours, difficulty.camouflage)
    canvas = _Canvas(
        Image.fromarray(pixels.astype(np.uint8)).convert("RGBA"), labels, np.zeros_like(labels), np.zeros_like(labels)
    )
    known = domain_b.FLUENT_DISTRACTORS if split == "domain b" else DISTRACTORS
    toys = [str(name) for name in rng.choice(list(known), int(rng.integers(*difficulty.toys, endpoint=True)))]
    in_front = int(rng.binomial(len(toys), difficulty.covering)) if crowded else 0
    _scatter(rng, canvas, [known[name] for name in toys[in_front:]], size)
    boxes, pixels_of = [], []
    for i, (name, figure) in enumerate(zip(names, figures, strict=True)):
        box = _place(rng, i, len(names), figure, size, floats=ground == "sky")
        if ground not in ("sky", "water"):
            canvas.shade(box, rng.uniform(0.3, 0.7))
        pixels_of.append(canvas.paste(figure, box[:2], LABELS[name], i + 1))
        boxes.append(box)
    _scatter(rng, canvas, [known[name] for name in toys[:in_front]], size)
    things = tuple(
        _seen(canvas, i, names[i], *chosen[i][1:], box=boxes[i], pixels=pixels_of[i], colour=figures[i].colour)
        for i in range(len(names))
    )
    return Scene(
        seed=seed,
        split=split,
        image=(domain_b.photograph if split == "domain b" else _light)(rng, canvas.image),
        labels=canvas.labels,
        parts=canvas.parts,
        instances=canvas.instances,
        caption=caption(rng, things, ground, backdrop),
        objects=things,
        distractors=tuple(toys),
        ground=ground,
        backdrop=backdrop,
    )


def _choose(
    rng: np.random.Generator,
    name: str,
    split: Split,
    difficulty: Difficulty,
    names: Sequence[str],
    taken: Sequence[str | None],
) -> _Chosen:
    """A figure of a class, its look, whether training never shows that, and whether it is a close-up.

    Twins are told apart by their colours, which emoji have not; domain B has nothing else.
    """
    look, novel = choose_look(rng, name, split, difficulty.novel)
    if names.count(name) > 1 and split != "domain b":
        if isinstance(look, str):
            look, novel = 0, False
        while (figure := draw(name, rng, look)).colour in taken:
            pass
        return figure, look, novel, False
    if isinstance(look, str):
        image, close = load_sprites()[name][look], look in HEADS
        return Figure(image, Image.new("L", image.size, PARTS["head"] if close else UNKNOWN_PART)), look, novel, close
    close = name in (*ANIMALS, "person") and bool(rng.random() < _CLOSE_SHARE)
    return draw(name, rng, look, close=close), look, novel, close


def draw(name: str, rng: np.random.Generator, style: int, *, close: bool = False) -> Figure:
    """Draw a figure of any class; only animals and persons can be drawn as close-ups."""
    if name in ANIMALS:
        return draw_animal(name, rng, style, close=close)
    if name == "person":
        return draw_person(rng, style, close=close)
    if name == "bird":
        return draw_bird(rng, style)
    return (draw_vehicle if name in VEHICLES else draw_furnishing)(name, rng, style)


def _side(rng: np.random.Generator, difficulty: Difficulty, count: int) -> float:
    return float(rng.uniform(*(_SMALL_SIZES if rng.random() < difficulty.small else difficulty.sides[count])))


def _pose(rng: np.random.Generator, figure: Figure, side: float) -> Figure:
    """The figure at `side` pixels along its longer side, mirrored and tilted by chance."""
    image, parts = figure.image, figure.parts
    factor = side / max(image.size)
    shape = (max(2, round(image.width * factor)), max(2, round(image.height * factor)))
    # bilinear: filters that overshoot leave a white rim where a figure ends
    image, parts = image.resize(shape, Image.Resampling.BILINEAR), parts.resize(shape, Image.Resampling.NEAREST)
    if rng.random() < 0.5:
        image, parts = (each.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for each in (image, parts))
    angle = rng.uniform(-8, 8)
    return Figure(
        image.rotate(angle, expand=True, resample=Image.Resampling.BILINEAR),
        parts.rotate(angle, expand=True, resample=Image.Resampling.NEAREST),
        figure.colour,
    )


def _mean_colour(figure: Figure) -> np.ndarray:
    pixels = np.asarray(figure.image)
    return pixels[pixels[..., 3] > 127][:, :3].mean(0)


def _place(
    rng: np.random.Generator, slot: int, slots: int, figure: Figure, size: int, *, floats: bool
) -> tuple[int, int, int, int]:
    """A box somewhere in the slot's upright strip of the picture; lower rather than higher unless it floats."""
    strip = size / slots
    width, height = figure.image.size
    left = rng.uniform(slot * strip, (slot + 1) * strip) - width / 2
    top = rng.uniform(0.0 if floats else 0.3, 1.0) * (size - height)
    left, top = int(np.clip(left, 0, max(0, size - width))), int(max(0, top))
    return left, top, left + width, top + height


def _scatter(rng: np.random.Generator, canvas: _Canvas, emoji: Sequence[str], size: int) -> None:
    """Paste distractors anywhere, without a label."""
    for each in emoji:
        image = load_sprites()["distractor"][each]
        toy = _pose(rng, Figure(image, Image.new("L", image.size)), size * rng.uniform(*_TOY_SIZES))
        box = _place(rng, 0, 1, toy, size, floats=True)
        canvas.paste(toy, box[:2], 0, 0)


def _seen(
    canvas: _Canvas,
    index: int,
    name: str,
    look: Look,
    novel: bool,
    close: bool,
    *,
    box: tuple[int, int, int, int],
    pixels: int,
    colour: str | None,
) -> SceneObject:
    own = canvas.instances == index + 1
    in_view = np.unique(canvas.parts[own])
    return SceneObject(
        name=name,
        look=f"drawn-{look}" if isinstance(look, int) else f"emoji-{look}",
        novel=novel,
        colour=colour,
        close=close,
        box_xyxy=box,
        area=float(own.mean()),
        visible=float(own.sum() / max(1, pixels)),
        parts=tuple(part for part, number in PARTS.items() if number in in_view),
    )


def _light(rng: np.random.Generator, image: Image.Image) -> np.ndarray:
    """A gradient of light, a little blur and a little noise, as a lens and a sensor add them."""
    size = image.width
    blurred = image.convert("RGB").filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.7) * size / 128))
    pixels = np.asarray(blurred, dtype=np.float32)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = 1 + rng.uniform(0, 0.3) * (x * np.cos(angle) + y * np.sin(angle)) - 0.1 * noise(rng, size, 3)
    lit = pixels * (rng.uniform(0.8, 1.1) * ramp)[..., None] + rng.normal(0, rng.uniform(0, 3), pixels.shape)
    return lit.clip(0, 255).astype(np.uint8)
