"""Claims about gauges against probes: one that follows is trusted, noise is not, and few runs carry no verdict."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretell.__main__ import main
from foretell.eval.gauges import ALL, FEWEST, LOGGED, Point, logged, rows_of, words
from foretell.train.recipes import tiny_encoder


def points(runs: int, seed: int = 0) -> list[Point]:
    """Three points a run: rank follows the score, decay falls with it, std goes against it, lidar is noise of a run."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(runs):
        noise = rng.standard_normal()
        for step, score in enumerate(rng.uniform(0, 1, 3)):
            blurred = score + 0.05 * rng.standard_normal()
            told = {"rank": blurred, "decay": -blurred, "std": -blurred, "lidar": noise, "loss": score}
            found.append(Point(f"run-{number}", step, "vjepa" if number % 2 else "mae", "ridge", score, told))
    return found


def words_of(rows: list[dict[str, Any]], objective: str = ALL) -> dict[str, str]:
    return {row["gauge"]: row["words"] for row in rows if row["objective"] == objective}


def test_the_interval_alone_decides_what_is_said() -> None:
    said = words_of(rows_of(points(12)))
    assert said == {"rank": "trust", "decay": "trust", "std": "misleads", "lidar": "no evidence"}
    assert [words(*pair) for pair in ((0.6, 0.9), (0.1, 0.9), (-0.1, 0.9), (-0.9, -0.1), (None, None))] == [
        "trust", "tracks", "no evidence", "misleads", "no evidence",
    ]  # fmt: skip


def test_losses_are_compared_within_an_objective_only() -> None:
    rows = rows_of(points(12))
    assert "loss" not in words_of(rows) and words_of(rows, "mae")["loss"] == "misleads"


def test_points_of_one_run_do_not_count_as_many() -> None:
    """Two dozen runs of one point, or the same points as two dozen of eight runs: the latter is less sure."""
    apart = [replace(point, run=str(number)) for number, point in enumerate(points(8))]
    wide, narrow = (
        next(row for row in rows_of(given) if (row["objective"], row["gauge"]) == (ALL, "lidar"))
        for given in (points(8), apart)
    )
    assert wide["value"] == narrow["value"] and wide["high"] - wide["low"] > narrow["high"] - narrow["low"]
    assert (wide["runs"], narrow["runs"], wide["points"]) == (8, 24, 24)


def test_few_runs_have_no_interval_and_no_verdict() -> None:
    rows = rows_of(points(FEWEST - 1))
    assert all(row["low"] is None and row["high"] is None and row["words"] == "no evidence" for row in rows)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Six pretraining runs whose logs have gauges and probes; every second row has no probe."""
    folders = [tmp_path / str(number) for number in range(6)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "recipe.json").write_text(json.dumps(asdict(tiny_encoder())))
        rows = [
            {"step": step, "loss": 1 / (step + number + 1), "rank": 10.0 * number + step, "std": 1.0}
            | ({"probe_0": 0.1 * number + 0.01 * step, "probe_1": 0.5} if step % 2 else {})
            for step in range(6)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folders


def test_runs_with_probes_in_their_logs_need_no_worlds(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [(point.step, point.probe) for point in logged(runs[0])] == [(1, LOGGED), (3, LOGGED), (5, LOGGED)]
    out = tmp_path / "gauges.json"
    assert main(["eval", "gauges", *map(str, runs), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "1.00 [1.00, 1.00] trust, 18 points, 6 runs" in told and f"| {LOGGED} | all | vjepa_dense |" in told
    found = json.loads(out.read_text())
    assert len(found["points"]) == 18 and found["command"].startswith("foretell eval gauges") and "commit" in found
    assert out.with_suffix(".png").stat().st_size > 1000


def test_runs_without_probes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "gauges", str(tmp_path), "--out", str(tmp_path / "gauges.json")]) == 2
    assert "no run there has both gauges and probes" in capsys.readouterr().err
