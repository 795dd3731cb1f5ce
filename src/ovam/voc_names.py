"""Names of Pascal VOC's label numbers, which label maps have unless they bring their own."""

_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)
VOC = dict(enumerate(_NAMES, start=1))
"""Name of each label number; 0 is the background, 255 is ignored."""
