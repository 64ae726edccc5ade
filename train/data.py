"""Paired data on disk to what training reads: decoded frames, questions, facts."""

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from torch import nn

from ..bridge.cache import FeatureCache, Frames, Look, build, claim, encoder_digest, feature_key, file_digest, watch
from ..perception.encoder import VJEPA2World, World, resize
from ..perception.video import OVERSAMPLE, VideoError, frame_grid, last_shown, read_clip
from .facts import MISSING, Targets
from .learner import train_device, train_dtype
from .moves import Moves
from .pairs import Excerpt, Quarantine, by_excerpt, progress, read_samples, readable, with_faults
from .worlds.questions import family

Row = dict[str, Any]
Watching = TypeVar("Watching", bound=World)


def read_rows(path: Path) -> list[Row]:
    """JSONL rows. Raises ValueError naming the line that is not JSON."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error.msg}): one row a line") from None
    return rows


@dataclass(frozen=True)
class Packed:
    """A worlds folder decoded once.

    frames: memory-mapped uint8 [N, F, S, S, 3]; times: seconds [F]; clips: the rows of clips.jsonl. index: video path
    as in the questions -> row; digests: sha256 of each video file. mirrored: how a mirror shows each clip, moved and in
    another light; left and right are exchanged in frames, states and answers.
    """

    root: Path
    clips: list[Row]
    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    index: dict[str, int]
    digests: list[str]
    mirrored: Moves | None = None

    def shown(self, row: int, until: float | None, rate: float, count: int) -> NDArray[np.uint8]:
        """The frames that an encoder is shown: uint8 [count, S, S, 3] (DESIGN, Frames shown)."""
        frames: NDArray[np.uint8] = self.frames[row][frame_grid(self.times, rate, count, until)]
        if self.mirrored is None:
            return frames
        return self.mirrored.part(slice(row, row + 1)).frames(torch.from_numpy(frames)[None])[0].numpy()

    def stock(self, rate: float, count: int, size: int) -> torch.Tensor:
        """The frames that an encoder is shown of every clip, as they are: uint8 [N, count, size, size, 3]."""
        held = torch.empty(len(self.clips), count, size, size, 3, dtype=torch.uint8)
        for row, clip in enumerate(self.clips):
            frames = self.frames[row][frame_grid(self.times, rate, count, clip["until"])]
            held[row] = resize(torch.from_numpy(frames), size)
        return held

    def mirror(self) -> "Packed":
        """The same worlds in a mirror, moved and in another light: as many clips again for the bridge to learn from."""
        moves = [mirror_of(clip) for clip in self.clips]
        clips = [mirrored_clip(clip, how) for clip, how in zip(self.clips, moves, strict=True)]
        return replace(self, clips=clips, mirrored=Moves.join(moves))

    def views(self, mirror: bool) -> list["Packed"]:
        """The worlds as they are, and in a mirror where that is wanted."""
        return [self, self.mirror()] if mirror else [self]


SIDES = {"left": "right", "right": "left"}


def mirror_of(clip: Row) -> Moves:
    """How a mirror shows a clip: moved, but with all that was in the picture when it was last seen."""
    seen = torch.tensor(clip["states"][last_shown(clip["until"], clip["fps"])])[None, :, 7:]  # [1, n, 2]
    return Moves.keeping(np.random.default_rng([clip["seed"], 104]), seen, sides=(-1.0,))


def mirrored_clip(clip: Row, moves: Moves) -> Row:
    """A clips.jsonl row as a mirror shows it: what it says of the image's left and right, and of places in it.

    Poses in metres stay: a mirror of the world itself would need other rotations, and nothing that is learned from
    depends on them but distances.
    """
    direction = {"direction": SIDES[clip["facts"]["direction"]]} if "direction" in clip["facts"] else {}
    (left, top), (right, bottom) = moves.places(torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]))[0].tolist()
    states = [
        [[*pose, round(left + (right - left) * u, 4), round(top + (bottom - top) * v, 4)] for *pose, u, v in frame]
        for frame in clip["states"]
    ]
    return {**clip, "facts": clip["facts"] | direction, "states": states}


def mirrored_question(row: Row) -> Row:
    """A question about a clip in a mirror: its sides exchanged."""
    return {**row, "answer": SIDES.get(row["answer"], row["answer"])} if row["type"] == "direction" else row


def room(device: torch.device) -> int:
    """Bytes that are free there."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available: int = psutil.virtual_memory().available
    return available


def _decode(path: Path, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """One thread and one reformatter: threads made anew for every 64x64 frame cost 40 times the decoding."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rgb = (reformatter.reformat(frame, format="rgb24", threads=1) for frame in container.decode(stream))
        return np.stack([frame.to_ndarray() for frame in rgb])


def _decode_all(root: Path, clips: list[Row], target: Path) -> None:
    """All clips into one .npy that appears by rename. In this process: worlds are our own files, not a stranger's."""
    first = clips[0]
    shape = (len(clips), first["frames"], first["size"], first["size"], 3)
    draft = target.with_suffix(".tmp")
    frames = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape)
    digests, reformatter = [], VideoReformatter()
    for row in progress(range(len(clips)), len(clips), "decode"):
        path = root / clips[row]["video"]
        frames[row] = _decode(path, reformatter)
        digests.append(file_digest(path))
    frames.flush()
    (root / "digests.json").write_text(json.dumps(digests))
    draft.replace(target)


def load_clips(data: Path, listing: str = "clips.jsonl") -> Packed:
    """A folder that `foretell worlds` wrote; one process decodes its clips into frames.npy at the first call.

    listing: the file that names them, violations.jsonl where they are quadruplets.
    """
    if not (data / listing).is_file():
        kind = " --violations" if listing == "violations.jsonl" else ""
        raise ValueError(f"{data} holds no {listing}: make one with `foretell worlds {data} --clips N --seed S{kind}`")
    clips = read_rows(data / listing)
    target = data / "frames.npy"
    if not target.exists():
        with (data / ".claims").open("a") as lock, claim(lock, "0", wait=True):
            if not target.exists():
                _decode_all(data, clips, target)
    frames = np.load(target, mmap_mode="r", allow_pickle=False)
    times = np.arange(clips[0]["frames"]) / clips[0]["fps"]
    index = {clip["video"]: row for row, clip in enumerate(clips)}
    return Packed(data, clips, frames, times, index, json.loads((data / "digests.json").read_text()))


def live_encoder(encoder: Watching) -> Watching:
    """A copy that computes in `train_dtype`: bf16 where it is native, twice as fast for an error below one per cent."""
    live = deepcopy(encoder)
    nn.Module.to(live.model, train_device(), train_dtype())
    return live


def cache_features(
    packed: Packed, encoder: VJEPA2World, folder: Path, look: Look = watch, most: int | None = None
) -> tuple[FeatureCache, list[str]]:
    """The features of every clip of a worlds folder, shown up to its `until`; returns the cache and a key a clip.

    Ranks, and any other processes that do this at once, share the work. look: as in the cache's `build`; most: of so
    many clips only (None: of all).
    """
    encoder = live_encoder(encoder)
    name = encoder_digest(encoder)
    untils = [clip["until"] for clip in packed.clips]
    keys = [
        feature_key(digest, until, name, packed.mirrored is not None)
        for digest, until in zip(packed.digests, untils, strict=True)
    ]
    cache = build(
        folder,
        encoder,
        keys[:most],
        lambda row: packed.shown(row, untils[row], encoder.rate, encoder.frames),
        track=partial(progress, what="features"),
        look=look,
    )
    return cache, keys


def cache_videos(
    excerpts: Sequence[Excerpt], encoder: VJEPA2World, folder: Path
) -> tuple[FeatureCache, dict[Excerpt, str], dict[Excerpt, str]]:
    """The features of what users' videos show, read safely; returns the cache, the keys of the excerpts that can be
    shown, and of all others the reason why not."""
    encoder = live_encoder(encoder)
    name, digest = encoder_digest(encoder), cache(file_digest)
    keys: dict[Excerpt, str] = {}
    unseen: dict[Excerpt, str] = {}
    for video, until in progress(excerpts, len(excerpts), "digests"):
        try:
            keys[video, until] = feature_key(digest(video), until, name)
        except VideoError as error:
            unseen[video, until] = error.reason
    known, size = list(keys), OVERSAMPLE * encoder.size

    def read(place: int) -> Frames | None:
        video, until = known[place]
        try:
            return read_clip(video, rate=encoder.rate, count=encoder.frames, until=until, size=size).frames
        except VideoError as error:
            unseen[video, until] = error.reason
            return None

    track = partial(progress, what="features")
    stored = build(folder, encoder, list(keys.values()), read, track=track, readers=os.cpu_count() or 1)
    return stored, {one: key for one, key in keys.items() if one not in unseen}, unseen


def with_families(packed: Packed, grouped: list[list[Row]]) -> list[list[Row]]:
    """The questions of each clip, each with more of its type about the same clip (questions.family)."""
    streams = [np.random.default_rng([clip["seed"], 102]) for clip in packed.clips]
    return [
        [one for row in rows for one in family(row, clip, rng)]
        for clip, rows, rng in zip(packed.clips, grouped, streams, strict=True)
    ]


def questions_by_clip(packed: Packed) -> list[list[Row]]:
    """The questions of each clip, by row of `packed`. Raises ValueError for a question about an unknown video."""
    grouped: dict[int, list[Row]] = defaultdict(list)
    for question in read_rows(packed.root / "questions.jsonl"):
        if question["video"] not in packed.index:
            raise ValueError(f"question {question['id']} names {question['video']}, which clips.jsonl does not")
        grouped[packed.index[question["video"]]].append(
            mirrored_question(question) if packed.mirrored is not None else question
        )
    return [grouped[row] for row in range(len(packed.clips))]


@dataclass(frozen=True)
class Split:
    """Data ready for training: features by key, what the bridge should know, questions; clip by clip.

    A clip that cannot be shown has the key "" and a question that was set aside is an empty row: both keep their
    places, so that what is drawn beside them is the same with and without them. odds: how often each clip is drawn
    against the others (None: all alike). worlds: those whose clips can be shown in another way each time, and `plain`,
    the rows of all these clips in this order.
    """

    videos: list[str]
    scenarios: list[str]
    cache: FeatureCache
    keys: list[str]
    targets: Targets
    questions: list[list[Row]]
    worlds: list[Packed] = field(default_factory=list)
    plain: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    odds: NDArray[np.float64] | None = None

    @classmethod
    def open(
        cls,
        data: Path,
        encoder: VJEPA2World,
        features: Path,
        mirror: bool = False,
        families: bool = False,
        most: int | None = None,
    ) -> "Split":
        """A worlds folder. mirror: each clip a second time, as a mirror shows it in another light. families: more of
        each question. most: how many clips have features (None: all)."""
        views = load_clips(data).views(mirror)
        clips = [clip for view in views for clip in view.clips]
        keys = [key for view in views for key in cache_features(view, encoder, features, most=most)[1]]
        asked = [(view, questions_by_clip(view)) for view in views]
        questions = [rows for view, each in asked for rows in (with_families(view, each) if families else each)]
        videos, scenarios = [clip["video"] for clip in clips], [clip["scenario"] for clip in clips]
        plain = np.arange(len(views[0].clips))
        return cls(
            videos, scenarios, FeatureCache.open(features), keys, Targets.of(clips), questions, [views[0]], plain
        )

    @classmethod
    def pairs(cls, data: Path, encoder: VJEPA2World, features: Path, quarantine: Quarantine) -> "Split":
        """A set of a user's paired data, of whose clips nothing is known but questions (pairs.read_samples)."""
        samples = read_samples(data, features / "videos")
        quarantine.hold(samples)
        stored, keys, unseen = cache_videos(readable(samples), encoder, features)
        samples = with_faults(samples, unseen)
        quarantine.hold(samples)
        clips = by_excerpt(samples)
        return cls(
            videos=[str(clip[0].video) for clip in clips],
            scenarios=[clip[0].scenario or "" for clip in clips],
            cache=stored,
            keys=[keys.get(clip[0].excerpt, "") for clip in clips],
            targets=Targets.unknown(len(clips)),
            questions=[[row for one in clip for row in one.rows] for clip in clips],
        )

    @classmethod
    def mix(cls, splits: Sequence["Split"], weights: Sequence[float]) -> "Split":
        """Several as one, on one cache; a clip of each is drawn as often as its weight says."""
        odds = np.concatenate([np.full(len(one.keys), weight) for one, weight in zip(splits, weights, strict=True)])
        begins = np.cumsum([0, *(len(one.keys) for one in splits[:-1])])
        return cls(
            [video for one in splits for video in one.videos],
            [scenario for one in splits for scenario in one.scenarios],
            FeatureCache.open(splits[0].cache.folder),
            [key for one in splits for key in one.keys],
            Targets.join([one.targets for one in splits]),
            [rows for one in splits for rows in one.questions],
            [world for one in splits for world in one.worlds],
            np.concatenate([begin + one.plain for begin, one in zip(begins, splits, strict=True)]),
            None if len(set(weights)) == 1 else odds,
        )

    @cached_property
    def mark(self) -> str:
        """Names the clips and the weights of their sets, in short. Neither other views of the clips nor those that
        cannot be shown, and may be mended, change it."""
        names, worlds = sorted({Path(video).name for video in self.videos}), [world.digests for world in self.worlds]
        odds = None if self.odds is None else [weight for weight, _ in groupby(self.odds.tolist())]  # set by set
        return sha256(repr((names, worlds, odds)).encode()).hexdigest()[:12]

    @cached_property
    def asked_about(self) -> NDArray[np.int64]:
        """The clips with questions."""
        return np.flatnonzero([bool(rows) for rows in self.questions])

    @cached_property
    def known(self) -> NDArray[np.int64]:
        """The clips of which a world tells facts."""
        return np.flatnonzero((self.targets.words != MISSING).any(1).numpy())

    def stock(self, encoder: VJEPA2World, device: torch.device) -> torch.Tensor:
        """The frames that are shown of every plain clip: uint8 [len(plain), T, S, S, 3]; on the device if they fit.

        Raises ValueError where they do not fit in memory either.
        """
        size = len(self.plain) * encoder.frames * encoder.size**2 * 3
        if 2 * size > room(device):
            device = torch.device("cpu")
        if 2 * size > room(device):
            raise ValueError(
                f"the frames of {len(self.plain):,} clips take {size / 1e9:.1f} GB, more than half of the free memory: "
                "take fewer clips, or cache their features (--set stages.warm.fresh=false)"
            )
        parts = [world.stock(encoder.rate, encoder.frames, encoder.size).to(device) for world in self.worlds]
        return torch.cat(parts)

    def shown(self, count: int) -> list[str]:
        """The keys of the first clips that can be shown."""
        return [key for key in self.keys if key][:count]

    def asked(self, count: int) -> list[list[Row]]:
        """The questions of the first clips."""
        return [[row for row in rows if row] for rows in self.questions[:count]]

    def draw(self, rng: np.random.Generator, clips: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """So many of these clips, each at most once; all of them where there are fewer."""
        odds = None if self.odds is None else self.odds[clips] / self.odds[clips].sum()
        return rng.choice(clips, min(count, len(clips)), replace=False, p=odds)
