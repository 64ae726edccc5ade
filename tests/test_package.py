"""The shape of the project: its packages, the one-way arrows between its rooms, and what may lie in it."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import foretell

ROOT = Path(__file__).parents[1]
ROOMS = ("perception", "bridge", "reasoner", "train", "eval")
FILES = ".gitignore CHANGELOG.md LICENSE LOG.md Makefile README.md constraints.txt py.typed pyproject.toml"
TOP = {*ROOMS, "tests", ".ci", "__init__.py", "__main__.py", *FILES.split()}
WEIGHTS = {".safetensors", ".npy", ".npz", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".h5"}
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")) + sorted(ROOT.glob("*.py"))


def tracked() -> list[Path]:
    """Every file under version control, relative to the root."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [Path(name) for name in names if name]


def module_of(path: Path) -> tuple[str, ...]:
    """The package that relative imports in this file start from: ("foretell", "train", "worlds")."""
    return ("foretell", *path.relative_to(ROOT).parent.parts)


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Absolute dotted names of everything a file imports, names after `from x import` included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module_of(path)
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = start + tuple((node.module or "").split(".") if node.module else ())
            yield from ((*module, alias.name) for alias in node.names)


def source_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_packages_are_the_folders_on_disk() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(module_of(path)) for path in SOURCES}
    assert set(listed) == found
    assert all((ROOT / Path(*name.split(".")[1:]) / "__init__.py").is_file() for name in listed)


def test_version_is_the_installed_one() -> None:
    assert version("foretell") == foretell.__version__


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent != ROOT], ids=source_id)
def test_arrows_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    allowed = ROOMS[: ROOMS.index(room) + 1]
    ours = [name for name in imports(path) if name[0] == "foretell"]
    assert [name for name in ours if name[1] not in allowed] == [], f"{room} may import {allowed} only"


@pytest.mark.parametrize("path", SOURCES, ids=source_id)
def test_our_own_modules_are_imported_relatively(path: Path) -> None:
    absolute = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "foretell" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "foretell")
    ]
    assert [ast.unparse(node) for node in absolute] == []


def test_the_arrow_reader_sees_an_arrow_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "train" / "worlds" / "bad.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "def f():\n    from ...eval.stats import x\n    from ... import reasoner\n    import foretell.bridge\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    expected = {("foretell", "eval", "stats", "x"), ("foretell", "reasoner"), ("foretell", "bridge")}
    assert set(imports(source)) == expected


def test_nothing_else_lies_at_the_top() -> None:
    names = {path.parts[0] for path in tracked()}
    assert names <= TOP
    assert {"README.md", "LICENSE", "pyproject.toml", "__init__.py", *ROOMS} <= names


def test_weights_stay_within_32_megabytes() -> None:
    weights = [path for path in tracked() if path.suffix in WEIGHTS]
    assert sum((ROOT / path).stat().st_size for path in weights) <= 32_000_000
    assert {path.parts[:2] for path in weights} <= {("reasoner", "nano")}


PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def keyword(call: ast.Call, name: str) -> object:
    """The literal that a call passes for a keyword; None where it passes none."""
    return next((ast.literal_eval(word.value) for word in call.keywords if word.arg == name), None)


def loads_pickle(call: ast.Call) -> bool:
    function = ast.unparse(call.func)
    return (function == "torch.load" and keyword(call, "weights_only") is not True) or (
        function in {"np.load", "numpy.load"} and keyword(call, "allow_pickle") is not False
    )


@pytest.mark.parametrize("path", SOURCES, ids=source_id)
def test_no_source_can_load_a_pickle(path: Path) -> None:
    assert {name[0] for name in imports(path)} & PICKLES == set()
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert [ast.unparse(call) for call in calls if loads_pickle(call)] == []


def test_reading_a_video_comes_without_torch() -> None:
    code = "import sys, foretell; foretell.read_clip; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_every_public_name_resolves() -> None:
    assert [name for name in foretell.__all__ if getattr(foretell, name, None) is None] == []
    with pytest.raises(AttributeError, match="public names are Answer"):
        _ = foretell.Oracle
