"""Between a benchmark's videos and the models: pictures as videos, and how surprising a video is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...perception.video import read_clip

if TYPE_CHECKING:
    from ...perception.encoder import VJEPA2World

Surprise = Callable[[Path], float]
PICTURES = {".png", ".jpg", ".jpeg"}
RATE = 8.0  # of a single picture: any will do
STRIDE = 2  # frames between windows (jepa-intuitive-physics, default_intphys.yaml: stride_sliding_window)
AT_ONCE = 12  # windows in a forward pass


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
    """The mean surprise of a model's predictor over all windows of a video, every STRIDE frames.

    model: a Foretell model's folder, or the folder or hub id of a V-JEPA 2 encoder with its predictor.
    """
    import torch

    from ...perception.encoder import VJEPA2World

    own = Path(model) / "encoder"
    encoder = VJEPA2World.from_pretrained(own if own.is_dir() else model)
    if torch.cuda.is_available():
        encoder.to("cuda")
    return lambda path: _mean_surprise(encoder, whole(path, encoder.rate, encoder.frames, 4 * encoder.size))


def _mean_surprise(encoder: "VJEPA2World", frames: NDArray[np.uint8]) -> float:
    import torch

    from ...perception.encoder import normalise, resize
    from ...perception.predictor import surprise

    small = resize(torch.from_numpy(frames), encoder.size).to(encoder.model.device)
    windows = small.unfold(0, encoder.frames, STRIDE).movedim(-1, 1)  # [W, T, S, S, 3]
    with torch.no_grad():
        found = [surprise(encoder.model, normalise(some)) for some in windows.split(AT_ONCE)]  # of [w, t]
    return float(torch.cat(found).mean())


def pixel_change(path: Path) -> float:
    """What a surprise score must beat: the mean change of a grey level from one frame to the next."""
    frames = whole(path, RATE, 2, 256).astype(np.float64)
    return float(np.abs(np.diff(frames, axis=0)).mean())
