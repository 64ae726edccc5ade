"""Claims about the video reader: the grid rule, the files it must read, and the files it must survive."""

import os
import pickle
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from foretell.perception import video
from foretell.perception.video import Clip, Limits, VideoError, frame_grid, last_shown, read_clip

STEP = 8  # grey levels between neighbouring frames of `greys`
LEAK_FREE = {"x264-params": "qp=12:bframes=0:rc-lookahead=0:mbtree=0:scenecut=0:weightp=0"}


def greys(count: int, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    """Frames [T, H, W, 3] that tell their own number by their brightness."""
    levels = np.arange(count) * STEP % 256
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).astype(np.uint8)


def write(
    path: Path,
    frames: NDArray[np.uint8],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    millis: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Encode frames [T, H, W, 3] at 16 frames/s, or at the given times in milliseconds."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream: Any = container.add_stream(codec, rate=16, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 1000 if millis else 16)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = millis[number] if millis else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbers(clip: Clip) -> list[int]:
    """Which frames of `greys` these are."""
    return [round(float(frame.mean()) / STEP) for frame in clip.frames]


def refusal(path: Path | str, **arguments: Any) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(VideoError) as caught:
        read_clip(path, **{"rate": 8.0, "count": 8, **arguments})
    assert caught.value.path == path
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(str(path))
    return caught.value.reason


# frame_grid


def by_definition(millis: list[int], rate: Fraction, count: int, until: int | None) -> list[int]:
    """DESIGN's "Frames shown", word for word, in exact arithmetic."""
    shown = [time for time in millis if until is None or time <= until + 1]
    grid = [shown[-1] - back * 1000 / rate for back in reversed(range(count))]
    return [max((i for i, time in enumerate(shown) if time <= point + 1), default=0) for point in grid]


def test_grid_is_the_definition_on_any_times() -> None:
    rng = random.Random(0)
    for _ in range(300):
        gaps = [rng.choice([1, 2, 16, 17, 33, 34, 40, 62, 63, 125, 700]) for _ in range(rng.randrange(40))]
        millis = [rng.randrange(100)]
        for gap in gaps:
            millis.append(millis[-1] + gap)
        until = rng.choice([None, rng.randint(millis[0], millis[-1])])
        rate, count = Fraction(rng.choice([1, 4, 5, 8, 10, 25])), rng.randint(1, 20)
        seconds = None if until is None else until / 1000
        picks = frame_grid(np.array(millis) / 1000, float(rate), count, seconds)
        assert picks.tolist() == by_definition(millis, rate, count, until)


def test_grid_ends_at_the_last_frame_shown() -> None:
    times = np.arange(32) / 16
    assert frame_grid(times, 8.0, 4).tolist() == [25, 27, 29, 31]
    assert frame_grid(times, 8.0, 4, until=1.0).tolist() == [10, 12, 14, 16]
    assert frame_grid(times, 8.0, 4, until=1.05).tolist() == [10, 12, 14, 16]


def test_grid_repeats_the_first_frame_of_a_short_clip() -> None:
    assert frame_grid(np.arange(3) / 8, 8.0, 6).tolist() == [0, 0, 0, 0, 1, 2]
    assert frame_grid(np.zeros(1), 8.0, 4).tolist() == [0, 0, 0, 0]


def test_grid_takes_the_latest_frame_of_uneven_times() -> None:
    times = np.array([0.0, 0.1, 0.11, 0.5, 0.9, 1.0])
    assert frame_grid(times, 4.0, 5).tolist() == [0, 2, 3, 3, 5]


def test_grid_allows_one_millisecond() -> None:
    times = np.array([0.0, 0.063, 0.125])  # 16 frames/s as Matroska rounds them
    assert frame_grid(times, 16.0, 3).tolist() == [0, 1, 2]
    assert frame_grid(times, 16.0, 1, until=0.062).tolist() == [1]
    assert frame_grid(times, 16.0, 1, until=0.0619).tolist() == [0]


def test_grid_does_not_drift_on_thirds_of_a_second() -> None:
    times = np.arange(30_000) / 30
    assert frame_grid(times, 10.0, 10_000).tolist() == list(range(2, 30_000, 3))


def test_grid_reads_memory_mapped_times(tmp_path: Path) -> None:
    np.save(tmp_path / "times.npy", np.arange(16) / 16)
    times = np.load(tmp_path / "times.npy", mmap_mode="r")
    assert frame_grid(times, 8.0, 3, until=0.5).tolist() == [4, 6, 8]


@pytest.mark.parametrize("until", [-0.01, 2.1, float("nan"), float("inf"), -float("inf")])
def test_grid_refuses_until_outside_the_video(until: float) -> None:
    with pytest.raises(ValueError, match=r"^until \S+ s lies outside the video: 0 to 2 s is allowed$"):
        frame_grid(np.arange(32) / 16, 8.0, 4, until)


def test_grid_allows_until_the_last_frame_ends() -> None:
    assert frame_grid(np.arange(32) / 16, 8.0, 1, until=2.0).tolist() == [31]


@pytest.mark.parametrize("rate", [1, 2, 5, 6, 7, 8, 12, 15, 24, 25, 30, 60])
def test_the_last_frame_shown_is_the_last_of_the_grid_at_every_rate(rate: int) -> None:
    times, untils = np.arange(4 * rate) / rate, np.arange(24) / 8
    grid = [int(frame_grid(times, float(rate), 1, until)[-1]) for until in untils]
    assert [last_shown(until, float(rate)) for until in untils] == grid
    assert rate != 8 or grid == list(range(24))


# What is read


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p"),  # B-frames: packets out of order
        ("a.mov", "png", "rgb24"),
        ("a.mkv", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("b.avi", "libx264", "yuv420p"),  # B-frames in AVI, which has no display times
    ],
)
def test_every_container_gives_the_frames_of_the_grid(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    path = write(tmp_path / name, greys(30), codec, pixels, options={"g": "7"} if codec != "png" else {})
    clip = read_clip(path, rate=8.0, count=4, until=1.0)
    assert numbers(clip) == [10, 12, 14, 16]
    assert clip.frames.dtype == np.uint8
    assert clip.frames.shape == (4, 32, 48, 3)
    np.testing.assert_allclose(clip.times, np.array([10, 12, 14, 16]) / 16, atol=1e-3)
    assert clip.times[-1] == clip.shown
    assert clip.duration == pytest.approx(29 / 16, abs=1e-3)


def test_what_comes_after_until_changes_nothing(tmp_path: Path) -> None:
    calm = greys(20)
    storm = calm.copy()
    storm[9:] = np.random.default_rng(0).integers(0, 256, storm[9:].shape, np.uint8)
    clips = [
        read_clip(write(tmp_path / name, frames, options=LEAK_FREE), rate=8.0, count=8, until=0.5)
        for name, frames in (("calm.mp4", calm), ("storm.mp4", storm))
    ]
    assert clips[0].frames.tobytes() == clips[1].frames.tobytes()
    assert clips[0].shown == clips[1].shown == 0.5


def test_variable_frame_rate_follows_timestamps(tmp_path: Path) -> None:
    millis = [0, 20, 40, 500, 520, 1500, 2000, 2010]
    path = write(tmp_path / "vfr.mp4", greys(8), millis=millis)
    clip = read_clip(path, rate=4.0, count=6)
    assert numbers(clip) == [4, 4, 4, 5, 5, 7]
    np.testing.assert_allclose(clip.times, [0.52, 0.52, 0.52, 1.5, 1.5, 2.01], atol=1e-3)
    assert clip.duration == pytest.approx(2.01, abs=1e-3)


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "late.mkv", greys(4), millis=[7000, 7125, 7250, 7375])
    clip = read_clip(path, rate=8.0, count=2, until=0.125)
    assert numbers(clip) == [0, 1]
    np.testing.assert_allclose(clip.times, [0.0, 0.125], atol=1e-3)


def test_one_frame_is_repeated(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path / "one.mp4", greys(1)), rate=8.0, count=8)
    assert len(clip.frames) == 8
    assert (clip.frames == clip.frames[0]).all()
    assert clip.duration == clip.shown == 0.0
    clip.frames[0] = 0  # a caller may write to what it was given


def test_ten_thousand_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "long.mp4", greys(10_000, 16, 16), "mpeg4", options={"g": "50"})
    clip = read_clip(path, rate=8.0, count=4)
    assert numbers(clip) == [n % 32 for n in (9993, 9995, 9997, 9999)]
    assert clip.duration == 9999 / 16
    middle = read_clip(path, rate=8.0, count=2, until=5000 / 16)
    assert numbers(middle) == [n % 32 for n in (4998, 5000)]


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "height", "width"),
    [
        ("dot.mkv", "ffv1", "bgr0", 1, 1),
        ("odd.mkv", "ffv1", "yuv420p", 17, 33),
        ("grey.mkv", "ffv1", "gray", 32, 48),
        ("ten.mp4", "libx264", "yuv420p10le", 32, 48),
        ("portrait.mp4", "libx264", "yuv420p", 96, 54),
    ],
)
def test_sizes_and_pixel_formats(tmp_path: Path, name: str, codec: str, pixels: str, height: int, width: int) -> None:
    path = write(tmp_path / name, greys(8, height, width), codec, pixels)
    clip = read_clip(path, rate=16.0, count=4)
    assert clip.frames.shape == (4, height, width, 3)
    assert numbers(clip) == [4, 5, 6, 7]


def test_a_large_frame_is_averaged_down(tmp_path: Path) -> None:
    frames = np.zeros((1, 3000, 4000, 3), np.uint8)
    frames[:, :, ::2] = 240  # stripes of one pixel: sampling would show them, averaging shows grey
    path = write(tmp_path / "large.mkv", frames, "mjpeg", "yuvj444p")
    clip = read_clip(path, rate=8.0, count=2, size=64)
    assert clip.frames.shape == (2, 48, 64, 3)
    assert abs(clip.frames.astype(int) - 120).max() <= 4


def test_size_never_enlarges(tmp_path: Path) -> None:
    assert read_clip(write(tmp_path / "a.mp4", greys(2)), rate=8.0, count=1, size=500).frames.shape == (1, 32, 48, 3)


CORNERS = np.array([[200, 40], [120, 0]], np.uint8)  # top left, top right; bottom left, bottom right


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((0, 1, -1, 0), np.rot90(CORNERS, -1)),  # a phone held upright: a quarter turn clockwise
        ((-1, 0, 0, -1), np.rot90(CORNERS, 2)),
        ((0, -1, 1, 0), np.rot90(CORNERS)),
        ((-1, 0, 0, 1), CORNERS[:, ::-1]),  # a mirror
    ],
)
def test_rotation_is_applied(tmp_path: Path, matrix: tuple[int, ...], upright: NDArray[np.uint8]) -> None:
    image = np.kron(CORNERS, np.ones((16, 24), np.uint8))[None, :, :, None].repeat(3, axis=3)
    path = write(tmp_path / "turned.mp4", image, options={"crf": "1"})
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44  # the display matrix: a b u, c d v, x y w in 16.16 and 2.30 fixed point
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", content, start, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    frame = read_clip(path, rate=8.0, count=1).frames[0, :, :, 0].astype(int)
    height, width = frame.shape
    assert (height, width) == ((48, 32) if matrix[0] == 0 else (32, 48))
    seen = frame[height // 4 :: height // 2, width // 4 :: width // 2]
    assert abs(seen - upright).max() <= 4


def test_no_duration_in_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "live.mkv", greys(20), muxer={"live": "1"})
    with av.open(str(path)) as container:
        assert container.streams.video[0].duration is None
    clip = read_clip(path, rate=8.0, count=2)
    assert numbers(clip) == [17, 19]
    assert clip.duration == pytest.approx(19 / 16, abs=1e-3)


def test_links_are_followed_to_regular_files_only(tmp_path: Path, tiny_video: Path) -> None:
    (tmp_path / "good.mp4").symlink_to(tiny_video)
    (tmp_path / "bad.mp4").symlink_to("/dev/zero")
    assert len(read_clip(tmp_path / "good.mp4", rate=8.0, count=2).frames) == 2
    assert refusal(tmp_path / "bad.mp4").startswith("a device, pipe or socket")


def test_the_file_need_not_be_named_like_a_video(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", greys(4)).rename(tmp_path / "été -1\n\udcff")
    assert numbers(read_clip(path, rate=16.0, count=2)) == [2, 3]


# What is refused


ALLOWED = "an mp4, mov, mkv, webm or avi file is allowed"


@pytest.mark.parametrize("url", ["http://localhost/a.mp4", "file:///etc/passwd", "s3://bucket/a.mp4", "HTTPS://a/b"])
@pytest.mark.parametrize("spelled", [str, Path, lambda url: Path("folder of questions") / url])
def test_urls_are_refused(url: str, spelled: Callable[[str], str | Path]) -> None:
    assert refusal(spelled(url)) == "a URL is not fetched: files only, so download it first"


def test_a_file_whose_name_looks_like_a_url_is_opened(tmp_path: Path) -> None:
    (tmp_path / "http:").mkdir()
    path = write(tmp_path / "http:" / "a.mp4", greys(4))
    assert numbers(read_clip(path, rate=16.0, count=2)) == [2, 3]
    assert refusal(tmp_path / "b:" / "a.mp4").startswith("cannot be opened")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "empty.mp4").touch()
    assert refusal(tmp_path / "missing.mp4") == f"cannot be opened (No such file or directory): {ALLOWED}"
    assert refusal(tmp_path) == f"a directory: {ALLOWED}"
    assert refusal("/dev/zero") == f"a device, pipe or socket: {ALLOWED}"
    assert refusal(tmp_path / "pipe.mp4") == f"a device, pipe or socket: {ALLOWED}"
    assert refusal(tmp_path / "empty.mp4") == f"an empty file: {ALLOWED}"
    with pytest.raises(VideoError, match=r"^\\x00: not a file name"):
        read_clip("\0", rate=8.0, count=8)


def test_no_permission_is_named(tiny_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # root may open anything, so a mode would not show this
    assert refusal(tiny_video) == f"cannot be opened (Permission denied): {ALLOWED}"


def test_an_error_is_one_printable_line() -> None:
    with pytest.raises(VideoError) as caught:
        read_clip("no\nsuch\x1b[31m\udcff", rate=8.0, count=8)
    assert str(caught.value).startswith(r"no\nsuch\x1b[31m\udcff: cannot be opened")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 (our own bytes)


def test_text_and_playlists_are_refused(tmp_path: Path, tiny_video: Path) -> None:
    for text in (
        "once upon a time\n" * 100,
        f"ffconcat version 1.0\nfile {tiny_video}\n",
        "#EXTM3U\n#EXTINF:1,\na.mp4\n",
    ):
        path = tmp_path / "text.mp4"
        path.write_text(text)
        assert refusal(path) == f"not a video, or cut off before its index: {ALLOWED}"


def test_other_containers_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "stream.ts", greys(8), "mpeg4").rename(tmp_path / "stream.mp4")
    assert refusal(path) == f"not a video, or cut off before its index: {ALLOWED}"


def test_audio_only_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert refusal(path) == f"no video in it: {ALLOWED}, with a video stream"


def test_a_file_cut_before_its_index_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.mp4", greys(30))  # the index is at the end
    path.write_bytes(path.read_bytes()[:-200])
    assert refusal(path).startswith("not a video, or cut off before its index")


@pytest.mark.parametrize(("name", "muxer"), [("cut.mkv", {}), ("cut.mp4", {"movflags": "faststart"})])
def test_a_cut_file_gives_its_whole_frames(tmp_path: Path, name: str, muxer: dict[str, str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), np.uint8)
    path = write(tmp_path / name, noise, options={"bf": "0"}, muxer=muxer)
    whole = read_clip(path, rate=16.0, count=30)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    clip = read_clip(path, rate=16.0, count=2)
    last = round(clip.duration * 16)
    assert 5 < last < 25
    assert (clip.frames == whole.frames[last - 1 : last + 1]).all()


def test_a_video_without_one_sound_frame_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.mp4", greys(8), "png", "rgb24")
    content = path.read_bytes()
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    path.write_bytes(content[:start] + bytes(end - start) + content[end:])
    assert refusal(path) == f"no frame in it can be decoded: {ALLOWED}, whole and not encrypted"


def test_caps_are_checked_before_decoding(tiny_video: Path) -> None:
    size = tiny_video.stat().st_size
    assert refusal(tiny_video, limits=Limits(max_bytes=size - 1)).endswith(f"at most {size - 1:,} are allowed")
    pixels = refusal(tiny_video, limits=Limits(max_pixels=4095))
    assert pixels == "64 x 64 pixels: at most 4,095 in all are allowed"
    assert refusal(tiny_video, limits=Limits(max_seconds=1.0)) == "lasts 2 s: at most 1 s is allowed"
    exact = Limits(max_bytes=size, max_pixels=4096, max_seconds=2.0)
    assert len(read_clip(tiny_video, rate=8.0, count=1, limits=exact).frames) == 1


def test_until_outside_the_video_is_refused(tiny_video: Path) -> None:
    for until in (-0.5, 2.1):
        assert refusal(tiny_video, until=until) == f"until {until:g} s lies outside the video: 0 to 2 s is allowed"


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": float("nan")}, {"count": 0}, {"size": 0}])
def test_senseless_requests_are_the_callers_fault(tiny_video: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is allowed") as caught:
        read_clip(tiny_video, **{"rate": 8.0, "count": 8, **wrong})
    assert not isinstance(caught.value, VideoError)


# What the parent survives


def test_too_little_memory_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", greys(1, 600, 800))
    reason = refusal(path, count=400, limits=Limits(max_memory=512 * 2**20))  # 400 frames of 1.4 MB
    assert reason == "decoding needs more than the 536,870,912 bytes of memory that are allowed"
    assert refusal(path, limits=Limits(max_memory=160 * 2**20))  # FFmpeg itself may crash here


def pretend_child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(video, "_CHILD", [sys.executable, "-S", "-c", f"import os, sys, time; {code}"])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.kill(os.getpid(), 11)", "the decoder ended without an answer (Segmentation fault)"),
        ("sys.exit(3)", "the decoder ended without an answer (exit status 3)"),
        ("print('C')", "the decoder ended without an answer"),
        ("sys.stdout.write('C' + '\\0' * 32)", "the decoder ended without an answer"),
        ("sys.stdout.buffer.write(b'C' + b'\\xff' * 10**7)", "the decoder ended without an answer"),
        ("sys.stdout.write('E' + 'no\\n' * 10**6)", "no\nno"),
    ],
)
def test_a_dead_or_lying_decoder_is_an_error(
    tiny_video: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    pretend_child(monkeypatch, code)
    assert refusal(tiny_video).startswith(reason)


def test_a_hanging_decoder_is_killed(tiny_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            children.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    pretend_child(monkeypatch, "time.sleep(600)")
    reason = refusal(tiny_video, limits=Limits(timeout=0.2))
    assert reason == "decoding takes longer than the 0.2 s that are allowed"
    assert [child.returncode for child in children] == [-9]


def test_damaged_files_never_do_harm(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(0)
    paths = [write(tmp_path / name, greys(12)) for name in ("a.mp4", "a.mkv", "a.avi")]
    capfd.readouterr()
    for number in range(9):
        content = bytearray(paths[number % 3].read_bytes())
        for _ in range(4 ** (number // 3 + 1)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        damaged = tmp_path / "damaged"
        damaged.write_bytes(content)
        try:
            assert read_clip(damaged, rate=8.0, count=4).frames.shape[::3] == (4, 3)
        except VideoError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017 (most damage still leaves a clip)
    assert capfd.readouterr() == ("", "")


def test_the_child_can_open_nothing(tmp_path: Path) -> None:
    code = (
        "import os, socket; from foretell.perception import video; video._confine(video.Limits())\n"
        "for attempt in (lambda: os.open('/etc/passwd', os.O_RDONLY), socket.socket, os.pipe):\n"
        "    try: attempt()\n"
        "    except OSError as error: print(error.errno)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["24", "24", "24"]


def test_the_parent_loads_no_decoder(tiny_video: Path) -> None:
    code = (
        "import sys; from foretell.perception.video import read_clip\n"
        "read_clip(sys.argv[1], rate=8.0, count=8)\n"
        "print(sorted({'av', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny_video)], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "[]\n"
