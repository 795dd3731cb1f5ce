"""docs/tokens-gain.md, from the JSON of the measurement: every word of it comes from here."""

from collections.abc import Mapping, Sequence
from typing import Any

from lab.fits.methods import DEFAULT, WORD
from lab.fits.scenes import FIRST
from lab.gain.finding import REST, WHOLE
from lab.gain.ladder import MAXIMUM, RUNGS
from lab.gain.table import ALL, COMPONENTS, HITS
from lab.markdown import interval, table

HEAD = """# What a token changes

See where a fitted token gives other masks than its word, for better or worse. The difference is measured in three ways,
on the scenes of [mini](mini.md), whose labels say what every pixel shows: by the steps from word to token, by what the
gained pixels show, and by the parts of things. Annotations, scored scenes and thresholds are those of
[tokens, measured](tokens-measured.md). Every difference has its 95 % interval, from a bootstrap over classes, draws and
scenes.
"""

SHORT = f"""## In short

The gain begins at the word with the threshold of the authors' protocol, and ends at the token. *Threshold* is the gain
of the word alone if its threshold is chosen on validation scenes. *Normalisation* is the further gain if its map is
stretched. The other rows are the difference between the token and this word, split by what the pixels show on which
they differ: the token finds more pixels of *{HITS}*, and fewer of anything else. The rows sum to the whole.
"""

STEPS = """## Step by step

Each row changes one more thing. *Step* is its mIoU minus that of the row above; the *share* is the part of the whole
gain that this step gives, below 0 if the mIoU falls. The gain of a step depends on the order of the steps. This is one
order, from what needs nothing to what needs a fit.
"""

CHOSEN = """The threshold of the map over its greatest value, {threshold:.3g}, was chosen like the word's threshold in
`chosen.json`: on {scenes} validation scenes and the ten development classes. In the row "calibration fitted", the
calibration has the same pull as in a whole fit.
"""

PIXELS = f"""## Pixel by pixel

The mIoU of the default minus that of the word, split by what the pixels show on which they differ. *{HITS}* counts
pixels of the class that are gained; the other rows count pixels of something else that are no longer taken for the
class. A row is below 0 if the token does worse than its word. An IoU is not a sum over pixels. So a row is the change
of the IoU when the word's pixels of one kind are replaced by the token's. It depends on the order in which the kinds
are replaced; the table has the mean over all orders, and so the rows sum to the gain. *Habitual ground* is the ground
on which training mostly shows the class; *unnamed things* belong to no class. *Canonical ground*: a class that nearly
always stands on its habitual ground does so here; *counterfactual ground*: it stands on another one.
"""

FALSE = """The share of the pixels of each kind that is wrongly taken for the class. It is pooled over a class's scenes
that show the kind; then the mean over classes is taken.
"""

PARTS = f"""## Part by part

The share of each part's pixels that is found (recall), pooled over a class's scenes; then the mean over the classes
that have the part is taken. Only drawn things are counted, whose parts are known; close-ups and emoji are left out.
*{WHOLE}* counts all pixels of these things, *{REST}* those that belong to no marked part. A mask that is larger
everywhere finds more of every part. So the token completes a thing only where a part gains more than the {WHOLE}.
"""

CLASSES = """## Class by class

For each class its IoU, and the rows of *pixel by pixel*.
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
