"""Claims about where figures come from: this code's own commit, whoever owns it, never that of what lies around."""

import os
import subprocess
from pathlib import Path

import pytest

from foretell.train import provenance


def git(folder: Path, *words: str) -> str:
    told = subprocess.run(["git", "-c", "safe.directory=*", *words], cwd=folder, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return told.stdout.strip()


def repository(folder: Path) -> str:
    """A repository with one commit, whose monitor leaves a trace where it is run; returns the commit."""
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "provenance.py").touch()
    git(folder, "init", "--quiet")
    git(folder, "add", "train")
    author = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    git(folder, *author, "commit", "--quiet", "--message", "Begin")
    monitor = folder.parent / "monitor"
    monitor.write_text(f"#!/bin/sh\ntouch {folder.parent / 'ran'}\n")
    monitor.chmod(0o755)
    git(folder, "config", "core.fsmonitor", str(monitor))
    return git(folder, "rev-parse", "HEAD")


def give_away(folder: Path) -> None:
    """Let another user own a folder."""
    if os.geteuid():
        pytest.skip("only root can give a folder away: run as root")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)


@pytest.mark.parametrize("linked", [False, True])
def test_a_clone_tells_its_commit_whoever_owns_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    clone, link = tmp_path / "clone", tmp_path / "elsewhere" / "foretell"
    commit = repository(clone)
    (tmp_path / "ran").unlink(missing_ok=True)
    link.parent.mkdir()
    link.symlink_to(clone)
    code = (link if linked else clone) / "train" / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(code))
    assert provenance.commit() == commit
    code.write_text("changed")
    assert provenance.commit() == f"{commit}-dirty"
    give_away(clone)
    assert provenance.commit() == f"{commit}-dirty"
    assert not (tmp_path / "ran").exists()


def test_weights_are_named_by_what_they_are_and_not_by_where_they_lie(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "lora").mkdir(parents=True)
        (folder / "lora" / "a.safetensors").write_bytes(bytes(3 * provenance.MEBIBYTE))
        (folder / "training.json").write_text(str(folder))
    assert provenance.weights_mark(one) == provenance.weights_mark(other) != provenance.weights_mark(one / "lora")
    with (other / "lora" / "a.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"1")
    assert provenance.weights_mark(one) != provenance.weights_mark(other)
    assert [provenance.weights_mark(name) for name in ("Qwen/Qwen3-8B", None)] == ["Qwen/Qwen3-8B", "none"]


def test_a_repository_around_the_code_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path / "theirs")
    code = tmp_path / "theirs" / ".venv" / "foretell" / "train" / "provenance.py"
    code.parent.mkdir(parents=True)
    code.touch()
    (tmp_path / "ran").unlink(missing_ok=True)
    monkeypatch.setattr(provenance, "__file__", str(code))
    assert provenance.commit() == "unknown"
    assert not (tmp_path / "ran").exists()
