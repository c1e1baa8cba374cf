"""Two runs that register at once: the second waits for the first, but not for a dead process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.engines.registry import one_at_a_time

# Says "in" when it holds the lock and "out" before it lets go, which it does when it is written to.
HOLDER = """
import sys
from pathlib import Path
from tasks.engines.registry import one_at_a_time
lock, log = Path(sys.argv[1]), Path(sys.argv[2])
def say(word):
    with log.open("a") as file:
        file.write(f"{sys.argv[3]} {word}\\n")
    print(word, flush=True)
with one_at_a_time(lock, lambda: say("waits")):
    say("in")
    sys.stdin.readline()
    say("out")
"""


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder / "root" / "register.lock"), str(folder / "log"), name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_second_process_waits_until_the_first_is_done(tmp_path: Path) -> None:
    first = start(tmp_path, "first")
    assert said(first) == "in"
    second = start(tmp_path, "second")
    assert said(second) == "waits"
    first.communicate("\n", timeout=60)
    assert said(second) == "in"
    second.communicate("\n", timeout=60)
    words = (tmp_path / "log").read_text().split("\n")[:-1]
    assert words == ["first in", "second waits", "first out", "second in", "second out"]
    assert first.returncode == second.returncode == 0


def test_a_process_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    dead = start(tmp_path, "dead")
    assert said(dead) == "in"
    dead.send_signal(signal.SIGKILL)
    dead.communicate(timeout=60)
    asked = []
    with one_at_a_time(tmp_path / "root" / "register.lock", lambda: asked.append(1)):
        assert asked == []


def test_a_decision_that_fails_lets_the_next_one_in(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), one_at_a_time(tmp_path / "lock"):
        raise RuntimeError("the registry is down")
    with one_at_a_time(tmp_path / "lock", lambda: pytest.fail("it is held")):
        pass
