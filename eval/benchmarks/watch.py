"""Between a benchmark's videos and the models: pictures as videos, and how surprising a video is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from ...perception.video import read_clip
from ..surprise import open_watcher, watch_video

Surprise = Callable[[Path], float]
PICTURES = {".png", ".jpg", ".jpeg"}
RATE = 8.0  # of a single picture: any will do


@contextmanager
def filmed(path: Path, rate: float | None = None) -> Iterator[Path]:
    """The video itself; a picture, or a folder of pictures at `rate` a second, as a lossless video while it is needed.

    So that one reader reads everything, in its child and within its limits.
    """
    if path.is_dir() or path.suffix.lower() in PICTURES:
        with TemporaryDirectory() as folder:
            pictures = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
            yield _film(pictures, rate or RATE, Path(folder) / "video.mkv")
    else:
        yield path


def _film(pictures: list[Path], rate: float, out: Path) -> Path:
    from fractions import Fraction

    import av

    if not pictures:
        raise ValueError(f"a folder without a picture: {', '.join(sorted(PICTURES))} are read")
    with av.open(str(out), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = _pixels(pictures[0]).shape[:2]
        stream.pix_fmt = "bgr0"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_pixels(picture), format="rgb24")))
        container.mux(stream.encode())
    return out


def _pixels(picture: Path) -> NDArray[np.uint8]:
    """uint8 RGB [H, W, 3]"""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(picture) as image:
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"{picture}: not a picture: {', '.join(sorted(PICTURES))} are read") from None


def whole(path: Path, rate: float, least: int, size: int) -> NDArray[np.uint8]:
    """A video from its first frame to its last: `rate` frames a second, at least so many. uint8 [F, H, W, 3]"""
    duration = read_clip(path, rate=rate, count=1, size=size).duration
    return read_clip(path, rate=rate, count=max(least, int(duration * rate) + 1), size=size).frames


def surprise_of(model: str | Path) -> Surprise:
    """The mean surprise of a model over all windows and contexts of a video (surprise.watch_video).

    model: as `foretell surprise` takes it.
    """
    watcher = open_watcher(model)
    return lambda path: float(watch_video(path, watcher).told()["average"])


def pixel_change(path: Path) -> float:
    """What a surprise score must beat: the mean change of a grey level from one frame to the next."""
    frames = whole(path, RATE, 2, 256).astype(np.float64)
    return float(np.abs(np.diff(frames, axis=0)).mean())
