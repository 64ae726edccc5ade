"""Read a user's video file safely: the parent checks what it can see, a killable child decodes.

A video is untrusted input to a large C library, so FFmpeg never runs in this process. The parent opens the file
(regular files only) and hands the open descriptor to a child that can open nothing else, may use only so much memory
and time, and answers with raw numbers and pixels. Run as a script, this module is that child. Neither imports torch.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import signal
import stat
import struct
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import FileIO
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_ALLOWED = "an mp4, mov, mkv, webm or avi file is allowed"
_DEMUXERS = "mov,matroska,avi"  # FFmpeg's names for these five
_CHILD = [sys.executable, "-P", __file__]
_HEAD = struct.Struct("<QQdd")  # height, width, duration, shown
_TOLERANCE_US = 1000
_URL = re.compile(r"(^|/)[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # a Path has folded its two slashes into one

StrPath = str | os.PathLike[str]
OVERSAMPLE = 4
"""A file is read at most so many times the encoder's side large: enough for the resize to average, and a 4000x3000
video stays small."""


class VideoError(ValueError):
    """A video cannot be read; one line that names the file and the reason."""

    def __init__(self, path: StrPath, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        line = f"{os.fspath(self.path)}: {self.reason}"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


@dataclass(frozen=True)
class Limits:
    """How much one video may cost.

    Units: bytes of the file, pixels of a frame (width times height), seconds of video; and for the child that decodes,
    seconds of wall time, bytes of address space.
    """

    max_bytes: int = 4 * 2**30
    max_pixels: int = 2**24
    max_seconds: float = 4 * 3600.0
    timeout: float = 60.0
    max_memory: int = 2 * 2**30


@dataclass(frozen=True)
class Clip:
    """The frames shown to the encoder, on its own time grid.

    frames: uint8 RGB [T, H, W, 3], upright. times: float64 [T], when each of them appears, in seconds from the file's
    first frame. duration, shown: on the same clock, the file's last frame and the last frame shown (`until`).
    """

    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    duration: float
    shown: float


def frame_grid(times: NDArray[np.float64], rate: float, count: int, until: float | None = None) -> NDArray[np.int64]:
    """Which frames an encoder sees: `count` grid points, `rate` a second, that end at the last frame shown.

    times: [N] seconds, not decreasing; frames later than `until` + 1 ms are not shown. Each grid point takes the latest
    frame that has appeared by then (+ 1 ms); points before the first frame repeat it. Returns indices [count] into
    `times`. Times are compared in whole microseconds, so that float rounding cannot move a frame across the 1 ms line.
    Raises ValueError when `until` lies before the first frame, or past the last by more than a mean frame's duration.
    """
    if not len(times):
        raise ValueError("no frame to choose from: at least 1 is needed")
    micros = np.rint(np.asarray(times, np.float64) * 1e6).astype(np.int64)  # [N]
    shown = micros if until is None else micros[: _count_shown(micros, rate, until)]
    grid = shown[-1] - np.rint(np.arange(count - 1, -1, -1) * 1e6 / rate).astype(np.int64)  # [count]
    latest: NDArray[np.int64] = np.searchsorted(shown, grid + _TOLERANCE_US, side="right") - 1
    return latest.clip(min=0)


def last_shown(until: float, rate: float) -> int:
    """Which frame of a video at `rate` a second from 0 s on, numbered from 0, is the last that `until` shows (DESIGN).

    A video that ends earlier shows its own last one.
    """
    return int((until + _TOLERANCE_US / 1e6) * rate)


def _count_shown(micros: NDArray[np.int64], rate: float, until: float) -> int:
    first, last = int(micros[0]), int(micros[-1])
    frame = (last - first) / (len(micros) - 1) if len(micros) > 1 else 1e6 / rate
    if not first - _TOLERANCE_US <= until * 1e6 <= last + frame + _TOLERANCE_US:
        allowed = f"{first / 1e6:.6g} to {(last + frame) / 1e6:.6g} s is allowed"
        raise ValueError(f"until {until:.6g} s lies outside the video: {allowed}")
    return int(np.searchsorted(micros, round(until * 1e6) + _TOLERANCE_US, side="right"))


@dataclass(frozen=True)
class _Request:
    """What the child is asked for: the arguments of `read_clip`."""

    rate: float
    count: int
    until: float | None
    size: int | None
    limits: Limits

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate {self.rate:g} frames/s: a positive number is allowed")
        if self.count < 1:
            raise ValueError(f"count {self.count}: at least 1 frame is allowed")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size {self.size}: at least 1 pixel is allowed, or None for the video's own size")


def read_clip(
    path: StrPath,
    *,
    rate: float,
    count: int,
    until: float | None = None,
    size: int | None = None,
    limits: Limits = Limits(),
) -> Clip:
    """Watch a video file up to `until` (seconds from its first frame; None: to its end).

    Returns the `count` frames that `frame_grid` picks at `rate` a second. `size` caps the longer side, in pixels, by
    area averaging. Rotation stored in the file is applied. Raises VideoError for whatever is wrong with the file, or
    with `until` for it; ValueError for the other arguments.
    """
    request = _Request(rate, count, until, size, limits)
    with open_file(path, limits) as file:
        return _ask_child(path, file, request)


def open_file(path: StrPath, limits: Limits = Limits()) -> FileIO:
    """A regular file within the limits, opened to read its bytes. Raises VideoError for anything else."""
    try:
        # Without O_NONBLOCK, opening a named pipe waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and _URL.search(os.fspath(path)):
            raise VideoError(path, "a URL is not fetched: files only, so download it first") from None
        raise VideoError(path, f"cannot be opened ({error.strerror}): {_ALLOWED}") from None
    except ValueError as error:
        raise VideoError(path, f"not a file name ({error}): {_ALLOWED}") from None
    try:
        _check_file(path, os.fstat(descriptor), limits)
        return os.fdopen(descriptor, "rb", buffering=0)
    except VideoError:
        os.close(descriptor)
        raise


def _check_file(path: StrPath, status: os.stat_result, limits: Limits) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(path, f"a directory: {_ALLOWED}")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(path, f"a device, pipe or socket: {_ALLOWED}")
    if not status.st_size:
        raise VideoError(path, f"an empty file: {_ALLOWED}")
    if status.st_size > limits.max_bytes:
        raise VideoError(path, f"{status.st_size:,} bytes: at most {limits.max_bytes:,} are allowed")


def _ask_child(path: StrPath, file: IO[bytes], request: _Request) -> Clip:
    # The memory limit counts address space, and every further thread or malloc arena reserves some.
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [*_CHILD, json.dumps(asdict(request))]
    with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env) as child:
        assert child.stdout
        late = threading.Event()
        timer = threading.Timer(request.limits.timeout, _end, (child, late))
        timer.start()
        try:
            return _receive(child.stdout, request)
        except EOFError:
            reason = f"the decoder ended without an answer ({_death(child)})"
            if late.is_set():
                reason = f"decoding takes longer than the {request.limits.timeout:g} s that are allowed"
            raise VideoError(path, reason) from None
        except ValueError as error:
            raise VideoError(path, str(error)) from None
        finally:
            timer.cancel()
            child.kill()


def _end(child: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    child.kill()


def _death(child: subprocess.Popen[bytes]) -> str:
    child.kill()
    status = child.wait()
    return f"exit status {status}" if status >= 0 else signal.strsignal(-status) or f"signal {-status}"


def _receive(pipe: IO[bytes], request: _Request) -> Clip:
    """The child's answer. A hostile video may own the child, so only as much is read as was asked for, and no more.

    Raises ValueError with the child's reason, EOFError where the answer is not whole.
    """
    kind = pipe.read(1)
    if kind == b"E":
        raise ValueError(pipe.read(1000).decode("utf-8", "replace"))
    if kind != b"C":
        raise EOFError
    height, width, duration, shown = _HEAD.unpack(_filled(pipe, np.empty(_HEAD.size, np.uint8)).data)
    if not 0 < height * width <= request.limits.max_pixels:
        raise EOFError
    times = _filled(pipe, np.empty(request.count))
    frames = _filled(pipe, np.empty((request.count, height, width, 3), np.uint8))
    return Clip(frames, times, duration, shown)


def _filled(pipe: Any, numbers: NDArray[Any]) -> NDArray[Any]:
    if pipe.readinto(numbers.data.cast("B")) != numbers.nbytes:
        raise EOFError
    return numbers


class _Index(NamedTuple):
    """A video's frames in the order shown: the key that finds each again, and its time in seconds from the first."""

    keys: list[int]  # timestamps, or the frames' numbers
    times: NDArray[np.float64]  # [N]
    by_timestamp: bool


def _pick_frames(file: IO[bytes], request: _Request) -> Clip:
    """Find and decode the frames that were asked for. Runs in the child.

    The packets' timestamps say where to look, so that little of a long video is decoded. Where they are missing, or
    promise frames that do not decode, all frames are decoded once to learn which there are.
    """
    for survey in (_survey_packets, _survey_frames):
        index = survey(file, request.limits)
        if not index.keys:
            continue
        _check_seconds(index.times[-1], request.limits)
        picks = frame_grid(index.times, request.rate, request.count, request.until)
        keys = [index.keys[pick] for pick in picks]
        found = _decode_keys(file, request, set(keys), index.by_timestamp)
        if len(found) == len(set(keys)):
            frames = np.stack([found[key] for key in keys])
            times = index.times[picks]
            return Clip(frames, times, float(index.times[-1]), float(times[-1]))
    raise ValueError(f"no frame in it can be decoded: {_ALLOWED}, whole and not encrypted")


def _survey_packets(file: IO[bytes], limits: Limits) -> _Index:
    """Frames by the timestamps of their packets, which costs no decoding; an empty index where some have none."""
    container, stream = _open_video(file, limits)
    stamps = array("q")
    for packet in _packets(container, stream):
        if packet.pts is None:
            return _Index([], np.empty(0), True)
        if not packet.is_discard:
            stamps.append(packet.pts)
    keys = sorted(set(stamps))
    return _Index(keys, _seconds(keys, stream), True)


def _survey_frames(file: IO[bytes], limits: Limits) -> _Index:
    """Frames as they leave the decoder, evenly spaced at the stream's rate where their timestamps are no use."""
    container, stream = _open_video(file, limits)
    stamps = [frame.pts for frame in _decoded(container, stream)]
    numbers = list(range(len(stamps)))
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) == len(stamps) and all(a < b for a, b in itertools.pairwise(known)):
        return _Index(numbers, _seconds(known, stream), False)
    rate = stream.average_rate or stream.guessed_rate or 25
    return _Index(numbers, np.arange(len(stamps)) / float(rate), False)


def _seconds(stamps: list[int], stream: VideoStream) -> NDArray[np.float64]:
    assert stream.time_base
    ticks = np.array(stamps, np.float64)  # [N]
    return (ticks - ticks[:1]) * float(stream.time_base)


def _decode_keys(
    file: IO[bytes], request: _Request, keys: set[int], by_timestamp: bool
) -> dict[int, NDArray[np.uint8]]:
    """Those frames of `keys` that decode, as upright RGB of one size."""
    import av

    container, stream = _open_video(file, request.limits)
    if by_timestamp:
        with contextlib.suppress(av.FFmpegError):
            container.seek(min(keys), stream=stream)
    box: tuple[int, int] | None = None
    found: dict[int, NDArray[np.uint8]] = {}
    for number, frame in enumerate(_decoded(container, stream)):
        key = frame.pts if by_timestamp else number
        if key in keys:
            box = box or _fit(frame.width, frame.height, request.size)
            found[key] = _upright(_rgb(frame, box), frame)
        if len(found) == len(keys):
            break
    return found


def _open_video(file: IO[bytes], limits: Limits) -> tuple[InputContainer, VideoStream]:
    """The container and its first video stream, once both are known to be within the limits."""
    import av
    from av.stream import Disposition

    file.seek(0)
    # PyAV's genpts invents display times for AVI, which stores none, and gets them wrong behind B-frames.
    rules = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "none", "fflags": "-genpts"}
    try:
        container = av.open(file, "r", container_options=rules, metadata_errors="replace")
    except MemoryError:
        raise
    except av.FFmpegError:
        raise ValueError(f"not a video, or cut off before its index: {_ALLOWED}") from None
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise ValueError(f"no video in it: {_ALLOWED}, with a video stream")
    _check_stream(container, streams[0], limits)
    streams[0].codec_context.options = {"max_pixels": str(limits.max_pixels)}  # a frame may be larger than promised
    streams[0].codec_context.thread_count = 1
    return container, streams[0]


def _check_stream(container: InputContainer, stream: VideoStream, limits: Limits) -> None:
    import av

    if not isinstance(stream.codec_context, av.VideoCodecContext):
        raise ValueError("its video codec is unknown: H.264, H.265, AV1, VP8, VP9, MPEG-4 and the like are allowed")
    if stream.width * stream.height > limits.max_pixels:
        raise ValueError(f"{stream.width} x {stream.height} pixels: at most {limits.max_pixels:,} in all are allowed")
    _check_seconds((container.duration or 0) / av.time_base, limits)


def _check_seconds(seconds: float, limits: Limits) -> None:
    if seconds > limits.max_seconds:
        raise ValueError(f"lasts {seconds:.6g} s: at most {limits.max_seconds:g} s is allowed")


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The stream's whole packets, to the end of the file or to where it is cut off."""
    import av

    try:
        yield from (packet for packet in container.demux(stream) if packet.size and not packet.is_corrupt)
    except MemoryError:
        raise
    except av.FFmpegError:
        return


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """The stream's sound frames in the order shown; what is broken is left out."""
    import av

    for packet in itertools.chain(_packets(container, stream), [None]):
        try:
            frames = stream.codec_context.decode(packet)
        except MemoryError:
            raise
        except av.FFmpegError:
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)


def _fit(width: int, height: int, size: int | None) -> tuple[int, int]:
    scale = min(1.0, size / max(width, height)) if size else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def _rgb(frame: VideoFrame, box: tuple[int, int]) -> NDArray[np.uint8]:
    if (frame.width, frame.height) == box:
        return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    width, height = box
    return np.asarray(frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA"), np.uint8)


def _upright(image: NDArray[np.uint8], frame: VideoFrame) -> NDArray[np.uint8]:
    """Turn and mirror an image [H, W, 3] as the file's display matrix says, to the nearest quarter turn."""
    if not frame.rotation:
        return image
    side_data: Any = frame.side_data  # PyAV's stub knows only motion vectors
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = np.frombuffer(side_data["DISPLAYMATRIX"], np.int32)[:5].tolist()
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _confine(limits: Limits) -> None:
    """Give up what decoding does not need. From here on the process can open no file and no socket."""
    import resource

    seconds = math.ceil(limits.timeout) + 1
    signal.alarm(seconds)  # the parent kills earlier, unless it died
    for kind, most in (
        (resource.RLIMIT_AS, limits.max_memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 3),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _answer(request: _Request) -> Iterator[Any]:
    """What the child writes: E and the reason, or C, the head, the times and the frames."""
    import av

    try:
        with open(0, "rb", buffering=0, closefd=False) as file:
            clip = _pick_frames(file, request)
    except MemoryError:
        yield f"Edecoding needs more than the {request.limits.max_memory:,} bytes of memory that are allowed".encode()
    except av.FFmpegError as error:
        yield f"E{error.strerror}".encode()
    except ValueError as error:
        yield f"E{error}".encode()
    else:
        yield b"C" + _HEAD.pack(*clip.frames.shape[1:3], clip.duration, clip.shown)
        yield from (clip.times.data, clip.frames.data)


def _main() -> None:
    # PyAV imports the last two late, and nothing can be imported once confined.
    import av.subtitles.codeccontext
    import av.subtitles.stream  # noqa: F401

    fields = json.loads(sys.argv[1])
    request = _Request(**{**fields, "limits": Limits(**fields["limits"])})
    _confine(request.limits)
    sys.stdout.buffer.writelines(_answer(request))


if __name__ == "__main__":
    _main()
