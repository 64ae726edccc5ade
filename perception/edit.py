"""Pictures of what might be done: objects found by their colour, taken out of a picture, or moved in it.

Shapes: H, W picture; a mask is bool [H, W]. Nothing here is learned, and nothing knows of a simulator: an object is the
largest region of a named colour. That suits plainly coloured things before a grey world; of white ones, which the
world's own greys come close to, many are missed.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Picture = NDArray[np.uint8]  # [H, W, 3]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

PAINTS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "yellow": (0.95, 0.85, 0.12),
    "green": (0.15, 0.65, 0.2),
    "blue": (0.15, 0.3, 0.85),
    "purple": (0.55, 0.18, 0.7),
    "orange": (0.98, 0.5, 0.08),
}
"""What a colour's name means, RGB in 0..1; the worlds paint their objects so."""
WHITE = "white"
SATURATION, CHROMA = 0.45, 0.15  # more than a grey world's tints have
BRIGHT, APART = 0.6, 0.1  # how light white is in the shade, and how unlike what lies beside it
SMALLEST = 0.003  # of the picture: 12 pixels of 64x64


def find_objects(picture: Picture) -> dict[str, Mask]:
    """Where the objects are, by colour."""
    pixels = picture / 255.0
    value, chroma = pixels.max(-1), np.ptp(pixels, axis=-1)
    vivid = (chroma > CHROMA) & (chroma > SATURATION * value)
    nearest = (_hue(pixels) @ _hue(np.array(list(PAINTS.values()))).T).argmax(-1)
    found = {name: vivid & (nearest == place) for place, name in enumerate(PAINTS)}
    beside = np.abs(pixels - _beside(pixels)).max(-1)
    found[WHITE] = ~vivid & (chroma < CHROMA) & (value > BRIGHT) & (beside > APART)
    regions = {name: _largest(mask) for name, mask in found.items()}
    return {name: mask for name, mask in regions.items() if mask.mean() >= SMALLEST}


def _hue(pixels: Floats) -> Floats:
    """Colours as directions around grey, whatever the light: [..., 3] -> [..., 3]."""
    off = pixels - pixels.mean(-1, keepdims=True)
    hue: Floats = off / np.maximum(np.linalg.norm(off, axis=-1, keepdims=True), 1e-6)
    return hue


def _beside(pixels: Floats) -> Floats:
    """What each row holds at its two ends, where no object is as a rule: [H, 1, 3]."""
    ends = max(1, pixels.shape[1] // 16)
    row: Floats = np.median(np.concatenate([pixels[:, :ends], pixels[:, -ends:]], axis=1), axis=1, keepdims=True)
    return row


def _largest(mask: Mask) -> Mask:
    """The largest connected region that does not reach the picture's left or right rim."""
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[np.unique([0, *labels[:, 0], *labels[:, -1]])] = 0
    best: Mask = (labels == sizes.argmax()) & mask
    return best if sizes.max() > 0 else np.zeros_like(mask)


def ground(picture: Picture, objects: Mapping[str, Mask]) -> Picture:
    """The picture as it would be without any of the objects: each row goes on behind them from side to side."""
    hidden = ndimage.binary_dilation(np.any(list(objects.values()), axis=0), iterations=max(1, len(picture) // 64))
    bare = picture.copy()
    for row, mask in zip(bare, hidden, strict=True):
        if mask.any() and not mask.all():
            at, known = np.flatnonzero(mask), np.flatnonzero(~mask)
            row[at] = np.stack([np.interp(at, known, row[known, channel]) for channel in range(3)], axis=-1).round()
    return bare


def taken_out(picture: Picture, mask: Mask, bare: Picture) -> Picture:
    """The picture with what lies behind one object in its place."""
    wide = ndimage.binary_dilation(mask)
    return np.where(wide[..., None], bare, picture)


def moved(picture: Picture, mask: Mask, bare: Picture, by: int) -> Picture:
    """The picture with one object so many pixels further to the right (below 0: to the left)."""
    rows, columns = np.nonzero(mask)
    inside = (columns + by >= 0) & (columns + by < picture.shape[1])
    rows, columns = rows[inside], columns[inside]
    after = taken_out(picture, mask, bare)
    after[rows, columns + by] = picture[rows, columns]
    return after


def width(mask: Mask) -> int:
    """How many pixels wide an object is."""
    return int(np.ptp(np.flatnonzero(mask.any(0)))) + 1
