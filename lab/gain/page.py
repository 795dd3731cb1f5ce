"""docs/tokens-gain.md, from the JSON of the measurement: every word of it comes from here."""

from collections.abc import Mapping, Sequence
from typing import Any

from lab.fits.methods import DEFAULT, WORD
from lab.fits.scenes import FIRST
from lab.gain.finding import REST, WHOLE
from lab.gain.ladder import MAXIMUM, RUNGS
from lab.gain.table import ALL, COMPONENTS, HITS
from lab.markdown import interval, table

HEAD = """# Where a token's gain comes from

A fitted token finds other pixels than its word. Here the difference is taken apart on [mini](mini.md)'s scenes, whose
labels tell what every pixel shows: by what is changed on the way from word to token, by what the pixels show that are
won, and by the parts of the things. Annotations, scored scenes and borders are those of
[tokens, measured](tokens-measured.md); every difference comes with its 95 % interval, by a bootstrap over classes,
draws and scenes.
"""

SHORT = f"""## In short

From the word as the authors' protocol cuts it to the token. *Threshold* is what the word alone gains by one that is
chosen on validation scenes, *normalisation* what stretching its map gains beside that; the other rows are the token
minus that word, by what the pixels show on which they differ: more of *{HITS}*, less of anything else. The rows sum to
the whole.
"""

STEPS = """## Step by step

Each rung changes one thing more. *Step* is its mIoU minus that of the rung above it in the table; the *share* is the
step's of the whole way, and below 0 where the step loses. What a step gives depends on the order of the rungs: this
is one order, from what needs nothing to what needs a fit.
"""

CHOSEN = """The threshold of the map over its greatest value, {threshold:.3g}, is chosen as the word's of `chosen.json`
is: on {scenes} validation scenes and the ten development classes. The calibration alone is held back as in a fit.
"""

PIXELS = f"""## Pixel by pixel

The mIoU of the default minus that of the word, by what the pixels show on which they differ: *{HITS}* counts
pixels of the class that are won, the other rows pixels of something else that are no longer taken for it. A row is
below 0 where the token does worse than its word. An IoU is no sum over pixels: a row is what the IoU changes by when
the word's pixels of one kind are replaced by the token's, a mean over all orders in which the kinds can be replaced, so
that the rows sum to the gain. *Habitual ground* is the ground on which training mostly shows the class; *unnamed
things* belong to no class of the world. On canonical ground a class of strict habits stands where it is at home, on
counterfactual ground elsewhere.
"""

FALSE = """The share of the pixels of each kind that is taken for the class: pooled over a class's scenes that show the
kind, mean over classes.
"""

PARTS = f"""## Part by part

The share of each part that is found: recall, pooled over a class's scenes, mean over the classes that have the part.
Of whole things whose parts the world marked; not of close-ups, nor of emoji, whose parts nobody marked. *{WHOLE}* is
of all pixels of these things, *{REST}* of those that are no marked part. A mask that is larger everywhere finds more of
every part: completion is where a part gains more than the {WHOLE}.
"""

CLASSES = """## Class by class

IoU, and the rows of *pixel by pixel* for each class.
"""


def write(found: Mapping[str, Any]) -> str:
    """The page."""
    made = found["stamp"]
    quick = "\n**A quick run, not for publication.**\n" if made["quick"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    parts = [
        HEAD + quick,
        f"{found['scenes']} scenes of the {found['split']} split, from number {FIRST.get(found['split'], 0)} on, "
        f"{len(found['classes'])} classes, {found['draws']} draws of one annotation each; "
        "a pair is a scene and a class that it shows.\n",
        SHORT,
        _short(found["rungs"], found["slices"][ALL]["components"]),
        STEPS,
        _rungs(found["rungs"]),
        CHOSEN.format(threshold=found["threshold"], scenes=found["chosen on"]),
        PIXELS,
        _components(found["slices"]),
        FALSE,
        _false(found["slices"]),
        PARTS,
        _parts(found["parts"]),
        CLASSES,
        _classes(found["classes"]),
        f"`{made['command']}`, {made['date']}, model {made['model']}, threads: {made['threads']}, "
        f"{made['processor']}, {versions}; figures and settings: [JSON](results/tokens/gain.json).\n",
    ]
    return "\n".join(parts)


def _short(rungs: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    whole = rungs[DEFAULT]["climbed"]
    parts = {"threshold": rungs[MAXIMUM]["step"], "normalisation": rungs[WORD]["step"], **made}
    rows = [(name, interval(part), _share(part, whole)) for name, part in parts.items()]
    return table(("Of the gain", "mIoU", "share"), [*rows, ("whole", interval(whole), "")])


def _rungs(rungs: Mapping[str, Any]) -> str:
    whole = rungs[DEFAULT]["climbed"]
    rows = [
        (
            name,
            RUNGS[name],
            f"{each['mIoU']:.3f}",
            interval(each.get("step")),
            _share(each.get("step"), whole),
            f"{each['AP']:.3f}",
        )
        for name, each in rungs.items()
    ]
    last = ("whole way", "", "", interval(whole), "", "")
    return table(("Rung", "What it is", "mIoU", "step", "share", "AP"), [*rows, last])


def _components(slices: Mapping[str, Any]) -> str:
    known = {name: each for name, each in slices.items() if each["scenes"]}
    header = ("Pixels of", *(f"{name}: {each['scenes']} pairs" for name, each in known.items()), f"share, {ALL}")
    rows = [
        (
            name,
            *(interval(each["components"][name]) for each in known.values()),
            _share(known[ALL]["components"][name], known[ALL]["gain"]),
        )
        for name in COMPONENTS
    ]
    return table(header, [*rows, ("gain", *(interval(each["gain"]) for each in known.values()), "")])


def _false(slices: Mapping[str, Any]) -> str:
    rows = [
        (slice_name, name, str(share["classes"]), *_pair(share))
        for slice_name, each in slices.items()
        if each["scenes"]
        for name, share in each["false"].items()
    ]
    return table(("Scenes", "Pixels of", "classes", WORD, DEFAULT, "difference"), rows)


def _parts(parts: Mapping[str, Any]) -> str:
    rows = [(name, str(each["classes"]), str(each["scenes"]), *_pair(each)) for name, each in parts.items()]
    return table(("Part", "classes", "scenes", WORD, DEFAULT, "difference"), rows)


def _classes(classes: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            f"{each[WORD]:.3f}",
            f"{each[DEFAULT]:.3f}",
            *(f"{each['components'][component]:+.3f}" for component in COMPONENTS),
        )
        for name, each in classes.items()
    ]
    return table(("Class", WORD, DEFAULT, *COMPONENTS), rows)


def _pair(share: Mapping[str, Any]) -> tuple[str, str, str]:
    return f"{share[WORD]:.3f}", f"{share[DEFAULT]:.3f}", interval(share["difference"])


def _share(part: Sequence[float] | None, whole: Sequence[float]) -> str:
    """A share of a whole that is surely above 0; else there is nothing to divide."""
    if part is None or whole[1] <= 0:
        return ""
    return f"{round(part[0] / whole[0], 2) + 0.0:.0%}"  # + 0.0: what rounds to -0% is 0%
