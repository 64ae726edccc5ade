"""Claims about shared work: nobody waits while something is left to do, and all is known in its order."""

import subprocess
import sys
from functools import partial
from pathlib import Path

from foretell.eval.turns import in_turn
from foretell.train.alarm import Unhealthy

HOLDER = """
import sys
from pathlib import Path
from foretell.eval.turns import claim_of
with claim_of(Path(sys.argv[1]), "b", wait=True):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_what_another_process_is_at_is_waited_for_while_there_is_nothing_else_to_do(tmp_path: Path) -> None:
    done: list[str] = []

    def do(name: str) -> str:
        done.append(name)
        if name == "c" and done.count("c") == 1:
            raise Unhealthy("told when its turn comes")
        if name == "d" and holder.poll() is None:
            holder.communicate("let go\n", timeout=60)
        return name.upper()

    work = {name: partial(do, name) for name in "abcd"}
    lock = tmp_path / ".claims"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        turns = [(name, turn()) for name, turn in in_turn(lock, work, (Unhealthy,))]
    assert turns == [(name, name.upper()) for name in "abcd"]
    assert done == ["a", "c", "d", "b", "c", "d"], "c and d were done while b was another's, and known afterwards"
