"""Claims about whole runs: on several ranks, with sharded weights, or killed, they give the losses of one process."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from foretell.train import fit
from foretell.train.recipes import tiny

from .fit_lab import Order, losses, make_lab, trainings

RECIPE: dict[str, Any] = {
    "stages": {"warm": {"batch": 8}, "align": {"batch": 4}, "tune": {"batch": 5, "extra": 3, "steps": 4}},
    "settings": {"check_every": 1000},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lab(tmp_path_factory.mktemp("lab"), clips=12)


@pytest.fixture(scope="module")
def order(lab: Path) -> Iterator[Order]:
    with trainings(lab) as running:
        yield running


@pytest.fixture(scope="module")
def alone(lab: Path, order: Order) -> Path:
    """The run of one process that all others are held against."""
    assert order(lab / "alone", **RECIPE) == [0]
    return lab / "alone"


def assert_same_losses(out: Path, alone: Path) -> None:
    """Within 1e-5, at every step of every stage."""
    found, wanted = losses(out), losses(alone)
    assert [row[:2] for row in found] == [row[:2] for row in wanted]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in wanted], abs=1e-5, rel=0)


@pytest.mark.parametrize(
    ("ranks", "sharded", "accumulate", "checkpointing"),
    [
        (1, False, 3, True),
        (2, False, 2, True),
        (4, False, 1, False),
        (2, True, 2, False),
        pytest.param(4, True, 1, True, marks=pytest.mark.slow),
    ],
)
def test_ranks_shards_accumulation_and_checkpointing_change_no_loss(
    lab: Path, order: Order, alone: Path, ranks: int, sharded: bool, accumulate: int, checkpointing: bool
) -> None:
    out = lab / f"{ranks}-{sharded}-{accumulate}"
    settings = {**RECIPE["settings"], "accumulate": accumulate, "checkpointing": checkpointing}
    assert order(out, ranks=ranks, sharded=sharded, stages=RECIPE["stages"], settings=settings) == [0] * ranks
    assert_same_losses(out, alone)


@pytest.mark.parametrize(("ranks", "sharded"), [(1, False), (4, True)])
def test_a_checkpoint_of_two_sharded_ranks_goes_on_with_one_and_with_four(
    lab: Path, order: Order, alone: Path, ranks: int, sharded: bool
) -> None:
    two, out = lab / "2-True-2", lab / f"two-to-{ranks}"
    if not two.exists():
        order(two, ranks=2, sharded=True, **RECIPE)
    shutil.copytree(two, out)
    shutil.rmtree(out / "tune" / "checkpoints" / "step-00000004")
    shutil.rmtree(out / "model")
    assert order(out, ranks=ranks, sharded=sharded, **RECIPE) == [0] * ranks
    assert_same_losses(out, alone)


LONG: dict[str, Any] = {
    "stages": {"warm": {"steps": 14}, "align": {"steps": 6}, "tune": {"steps": 8}},
    "settings": {"check_every": 5},
}


def kill_and_resume(lab: Path, order: Order, out: Path, kills: int, in_save: int) -> None:
    """Kill a run so many times, so many of them inside a save; a run that ends too soon is begun anew."""
    assert order(out / "whole", **LONG) == [0]
    rng, number = random.Random(0), 0
    plan = [place < in_save for place in rng.sample(range(kills), kills)]
    while plan:
        how = {"die_in_save": rng.randint(1, 40)} if plan[-1] else {"kill_after": rng.uniform(0, 1.5)}
        statuses = order(out / str(number), **LONG, **how)
        if statuses == [-signal.SIGKILL]:
            plan.pop()
        else:
            assert_same_run(out / str(number), out / "whole", statuses)
            number += 1
    assert_same_run(out / str(number), out / "whole", order(out / str(number), **LONG))


def assert_same_run(found: Path, wanted: Path, statuses: list[int]) -> None:
    """To the bit."""
    assert statuses == [0] and losses(found) == losses(wanted)
    for name in ("tune/checkpoints/step-00000008/tensors.safetensors", "model/bridge.safetensors"):
        assert (found / name).read_bytes() == (wanted / name).read_bytes()


def test_kill_minus_nine_at_random_moments_changes_no_bit(lab: Path, order: Order, tmp_path: Path) -> None:
    kill_and_resume(lab, order, tmp_path, kills=4, in_save=2)


@pytest.mark.slow
def test_a_hundred_kills_thirty_of_them_inside_a_save_change_no_bit(lab: Path, order: Order, tmp_path: Path) -> None:
    kill_and_resume(lab, order, tmp_path, kills=100, in_save=30)


NODE = """
import os, signal, sys
from pathlib import Path
import torch
from fit_forks import LAB, recipe_of
from foretell.train import data, fit

fit.train_dtype = data.train_dtype = lambda: torch.float32
out, order = Path(sys.argv[2]), {order}
step = fit.Run._step

def doomed(self, optimizer, number, *rest):
    if number == 5 and os.environ["RANK"] == "1" and not (out / "killed").exists():
        (out / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, optimizer, number, *rest)

fit.Run._step = doomed
fit.run(
    LAB / "data", LAB / "data", LAB / "encoder", out, recipe_of(order), str(LAB / "llm"), LAB / "features", sharded=True
)
"""


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """Two network namespaces with a cable between them, as two machines: 10.77.0.1 and 10.77.0.2."""

    def ip(command: str) -> None:
        told = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
        if told.returncode:
            pytest.skip(f"network namespaces cannot be made here (`ip {command}`: {told.stderr.strip()}): run as root")

    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` here to make network namespaces with: install iproute2")
    names = [f"foretell-{os.getpid()}-{place}" for place in (1, 2)]
    try:
        for name in names:
            ip(f"netns add {name}")
        ip(f"link add cable netns {names[0]} type veth peer name cable netns {names[1]}")
        for place, name in enumerate(names, start=1):
            ip(f"-n {name} addr add 10.77.0.{place}/24 dev cable")
            ip(f"-n {name} link set cable up")
            ip(f"-n {name} link set lo up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
def test_a_rank_killed_on_one_of_two_nodes_is_started_again_and_changes_no_loss(
    lab: Path, order: Order, nodes: list[str], tmp_path: Path
) -> None:
    assert order(tmp_path / "alone", **LONG) == [0]
    (tmp_path / "out").mkdir()
    (tmp_path / "node.py").write_text(NODE.replace("{order}", repr(LONG)))
    launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--max_restarts", "2"]
    launch += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "10.77.0.1:29400", "--rdzv_id", "foretell"]
    here = os.environ | {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
    here["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    script = [str(tmp_path / "node.py"), str(lab), str(tmp_path / "out")]
    agents = []
    for place, name in enumerate(nodes, start=1):
        own = ["--local_addr", f"10.77.0.{place}", "--rdzv_conf", f"is_host={int(place == 1)}"]
        command = ["ip", "netns", "exec", name, sys.executable, *launch, *own, *script]
        agents.append(subprocess.Popen(command, env=here, stderr=subprocess.PIPE, text=True))
    told = [agent.communicate()[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(told)
    assert (tmp_path / "out" / "killed").exists()
    assert_same_losses(tmp_path / "out", tmp_path / "alone")


def test_a_run_does_not_start_where_parts_would_be_empty_or_shards_have_no_ranks(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 clips cannot be computed in 4 \(ranks\) x 1 \(accumulate\)"):
        fit.check_shares(tiny(), 4)
    stages = {"warm": replace(tiny().stages["warm"], fresh=True, questions=2)}
    with pytest.raises(ValueError, match=r"warm is fresh and has 2 questions and 0 extra .*questions=0"):
        fit.check_fresh(replace(tiny(), stages=stages))
    with pytest.raises(ValueError, match="accelerate launch --num_processes N"):
        fit.run(
            lab / "data", lab / "data", lab / "encoder", tmp_path, tiny(), str(lab / "llm"), lab / "features",
            sharded=True,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "multi_node"])
def test_ready_configurations_are_ones_that_accelerate_reads(name: str) -> None:
    config: Any = load_config_from_file(str(Path(fit.__file__).with_name(f"{name}.yaml")))
    assert config.mixed_precision == "no" and config.num_processes == 8 * config.num_machines
