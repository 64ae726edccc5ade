"""A whole model as one folder to hand on, its language model included, for a disk or for a hub."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's, as its version has it

from .answer import NANO, Foretell
from .llm import drafted, quiet
from .model import companion, is_hub_id

BESIDE = ("calibration.json", "training.json")
"""What lies beside a model's weights and goes with them: how its confidence was fitted, how it was trained."""

Describe = Callable[[Path], str]
"""The text of the model card of a folder in which all else is written."""


def export(
    source: str | Path | None, out: str | Path, describe: Describe, merge: bool = False, llm: str | None = None
) -> Path:
    """Write a model (None: the embedded one) as one folder, whole or not at all: config.json, model.safetensors with
    encoder, bridge and language model, the processor, what lies beside, and a card. Returns the folder.

    It loads with `Foretell.load`, AutoModelForImageTextToText and AutoProcessor. merge: the LoRA goes into the language
    model's weights; otherwise it stays an ordinary peft folder, `lora`. llm: as in `load`. Raises ValueError where
    `out` holds something already, or the language model is in 4 bits.
    """
    out = Path(out).resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} is there already: name a folder that is empty or does not exist")
    source = source or NANO
    foretell = Foretell.load(source, llm, lora="folded" if merge else "trainable")
    if (named := foretell.model.config.llm) is not None and not is_hub_id(named):
        foretell.model.config.llm = Path(named).name  # the rest of the path is this machine's
    with drafted(out) as draft, quiet():
        foretell.model.save_pretrained(draft)
        foretell.processor.save_pretrained(str(draft))
        for name in BESIDE:
            if (path := companion(source, name)) is not None:
                shutil.copyfile(path, draft / name)
        (draft / "README.md").write_text(describe(draft), encoding="utf-8")
    return out


def reserve(repo: str) -> None:
    """Make sure of a model repository on the hub before the work begins; a new one is private until its owner opens it.

    Raises ValueError where the id is none, no token is there, or the hub refuses or cannot be reached.
    """
    if get_token() is None:
        raise ValueError(f"no token to push to {repo} with: log in by `hf auth login`, or set HF_TOKEN")
    with _plainly(repo):
        HfApi().create_repo(repo, private=True, exist_ok=True)


def push(folder: Path, repo: str) -> str:
    """Upload an exported folder in one commit; returns the commit's address. Raises ValueError as `reserve` does."""
    with _plainly(repo, f"; {folder} is whole: `hf upload {repo} {folder}` sends it again"):
        return str(
            HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload with foretell export")
        )


@contextmanager
def _plainly(repo: str, remedy: str = "") -> Iterator[None]:
    """What goes wrong with a hub as a ValueError."""
    try:
        yield
    except (HTTPError, ConnectionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"cannot push to {repo}: {reason} (it takes a token with write access, a connection, and HF_HUB_OFFLINE "
            f"unset){remedy}"
        ) from error
