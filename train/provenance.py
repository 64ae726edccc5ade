"""Where a run or a figure came from: the code's commit, the machine, the packages. Nothing here names the machine."""

import hashlib
import os
import platform
import re
import subprocess
from importlib.metadata import Distribution, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "safetensors", "numpy")
MEBIBYTE = 2**20
ARITHMETIC = re.compile(r"avx\w*|amx\w*|fma|asimd\w*|bf16|sve\w*")
"""CPU flags that decide how fast matrices are multiplied, and in which order sums are taken."""


def commit() -> str:
    """The commit of this code, "-dirty" when tracked files differ from it; "unknown" where it has no repository.

    Whoever owns this code's repository is trusted, as it is run anyway; one that lies around it is not even asked.
    """
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-c", f"safe.directory={root}", "-c", "core.fsmonitor=false"]
    command += ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    within = os.environ | {"GIT_CEILING_DIRECTORIES": str(root.parent)}
    try:
        told = subprocess.run(command, cwd=root, env=within, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def weights_mark(source: str | Path | None) -> str:
    """Names the weights in a folder or a file by each file's name, size, first and last mebibyte: at once, however
    large. What is on no disk, a hub id, is its own name; "none" for None."""
    if source is None or not Path(source).exists():
        return str(source or "none")
    told, place = hashlib.sha256(), Path(source)
    for path in [place] if place.is_file() else sorted(place.rglob("*.safetensors")):
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            told.update(f"{path.relative_to(place)} {size}\n".encode())
            for start in (0, max(0, size - MEBIBYTE)):
                file.seek(start)
                told.update(file.read(MEBIBYTE))
    return told.hexdigest()[:12]


def machine() -> str:
    """What figures and speed may depend on, in a line."""
    import torch

    from ..reasoner.llm import native_dtype

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    dtype = str(native_dtype()).removeprefix("torch.")
    return f"{os.cpu_count()} cores, {platform.machine()}, {device}, {dtype}, torch {torch.__version__}"


def environment() -> dict[str, Any]:
    """Everything around the code that a run may depend on."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES if installed(name)},
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_flags": cpu_flags(),
        "gpus": [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())],
    }


def installed(package: str) -> bool:
    """Whether a package is there: one that a run can do without may be left out of its machine."""
    return any(True for _ in Distribution.discover(name=package))


def cpu_flags() -> list[str]:
    """The first core's flags that concern arithmetic; none where the system does not tell them as Linux does."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return [flag for flag in flags.split() if ARITHMETIC.fullmatch(flag)]
