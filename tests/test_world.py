"""The rendered world: scenes are functions of their seed, labels are exact, splits never meet."""

import numpy as np
import pytest

from ovam.mini.captions import CLASS_WORDS
from ovam.mini.world import CLASSES, LABELS, SPLITS, render, seed_of


def test_a_scene_is_a_function_of_its_seed():
    first, second, other = render(5), render(5), render(6)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)
    assert (first.caption, first.objects) == (second.caption, second.objects)
    assert not np.array_equal(first.image, other.image)


def test_classes_carry_the_ids_of_pascal_voc():
    voc = (
        "aeroplane bicycle bird boat bottle bus car cat chair cow dining_table dog horse motorbike person "
        "potted_plant sheep sofa train tv_monitor"
    ).split()
    assert [name.replace(" ", "_") for name in CLASSES] == voc
    assert [LABELS[name] for name in CLASSES] == list(range(1, 21))


def test_labels_are_where_the_objects_are():
    for seed in range(20):
        scene = render(seed)
        named = {LABELS[thing.name] for thing in scene.objects} | {LABELS[scene.ground], 0}
        if scene.backdrop is not None:
            named.add(LABELS[scene.backdrop])
        assert set(np.unique(scene.labels)) <= named
        for thing in scene.objects:
            left, top, right, bottom = thing.box_xyxy
            outside = scene.mask(thing.name).copy()
            outside[top:bottom, left:right] = False
            assert not outside.any()


def test_an_object_changes_the_pixels_that_its_mask_covers():
    """A mask shifted against the picture would cover ground: compare with the ground's own colours."""
    scene = next(s for s in map(render, range(200)) if s.objects[0].name == "sheep" and s.ground == "grass")
    green = scene.image[scene.mask("grass")].mean(0)
    sheep = scene.image[scene.mask("sheep")].mean(0)
    assert green[1] > green[2] + 40
    assert np.ptp(sheep) < 60


def test_the_number_of_objects_can_be_asked():
    assert [len(render(3, count=count).objects) for count in (1, 2, 3)] == [1, 2, 3]


def test_captions_name_classes_by_their_words():
    known = {word for words in CLASS_WORDS.values() for word in words}
    captions = [render(seed).caption for seed in range(50)]
    assert all(any(word in caption for word in known) for caption in captions)
    assert all(caption == caption.lower() for caption in captions)


@pytest.mark.user_error
def test_splits_do_not_meet():
    ranges = list(SPLITS.values())
    assert all(a.stop <= b.start or b.stop <= a.start for i, a in enumerate(ranges) for b in ranges[i + 1 :])
    with pytest.raises(IndexError):
        seed_of("train", 10**8)
    with pytest.raises(ValueError, match="validation"):
        seed_of("training", 0)  # type: ignore[arg-type]
