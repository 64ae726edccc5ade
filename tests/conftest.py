"""Every test runs offline, on two threads at most, on tiny clips made here."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "2")

import av
import numpy as np
import pytest
from numpy.typing import NDArray

VideoMaker = Callable[..., Path]


def moving_square(count: int, size: int = 64) -> NDArray[np.uint8]:
    """A white square that walks right over grey, wrapping round: [T, H, W, 3], no two neighbouring frames equal."""
    frames = np.full((count, size, size, 3), 96, dtype=np.uint8)
    side = max(size // 4, 1)
    for index, frame in enumerate(frames):
        left = index * side // 2 % (size - side + 1)
        frame[size // 3 : size // 3 + side, left : left + side] = 255
    return frames


def write_video(path: Path, frames: NDArray[np.uint8], rate: int = 8) -> Path:
    """Frames [T, H, W, 3] as H.264 at `rate` frames a second, without look-ahead (DESIGN, Codec leak)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"x264-params": "qp=12:bframes=0:rc-lookahead=0:mbtree=0:scenecut=0:weightp=0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def make_video(tmp_path: Path) -> VideoMaker:
    """`make_video("a.mp4", count=16, size=64, rate=8)` writes a moving square under tmp_path and returns its path."""

    def make(name: str = "clip.mp4", count: int = 16, size: int = 64, rate: int = 8) -> Path:
        return write_video(tmp_path / name, moving_square(count, size), rate)

    return make


@pytest.fixture(scope="session")
def tiny_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shared clip: 16 frames of 64x64 at 8 frames/s, its last frame at 1.875 s. Read it, never write to it."""
    return write_video(tmp_path_factory.mktemp("video") / "tiny.mp4", moving_square(16))
