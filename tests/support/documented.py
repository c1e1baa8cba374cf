"""The command lines of the documentation: what stands in its fenced sh blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.sections import PROJECT

PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))]
BETWEEN = {"&&", "||", ";", "|", ">", ">>", "<"}  # shell words that end a command's own


@dataclass(frozen=True)
class Command:
    """One command: its page, its words, and the variables that are set for it or exported by it."""

    page: str
    words: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def program(self) -> str:
        return Path(self.words[0]).name if self.words else ""

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def commands_of(page: Path) -> list[Command]:
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", page.read_text(), flags=re.S | re.M)
    name = page.relative_to(PROJECT).as_posix()
    return [command for block in blocks for words in _lines(block) for command in _commands(name, words)]


def _lines(block: str) -> Iterator[list[str]]:
    """The words of each line; one that ends in a backslash, or within quotes, goes on in the next."""
    held = ""
    for line in block.splitlines():
        held += line
        try:
            if held.endswith("\\"):
                raise ValueError
            words = shlex.split(held, comments=True)
        except ValueError:
            held = f"{held.removesuffix(chr(92))}\n"
            continue
        held = ""
        if words:
            yield words
    assert not held, f"a line that does not end: {held}"


def _commands(page: str, words: list[str]) -> Iterator[Command]:
    while words:
        end = next((i for i, word in enumerate(words) if word in BETWEEN or word.endswith(";")), len(words))
        own = [word.removesuffix(";") for word in words[: end + (end < len(words) and words[end] not in BETWEEN)]]
        words = words[end + 1 :]
        if own[:1] == ["export"]:
            own = own[1:]
        variables = {}
        while own and (found := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", own[0], flags=re.S)):
            variables[found[1]] = found[2]
            own = own[1:]
        yield Command(page, tuple(own), variables)


COMMANDS = [command for page in PAGES for command in commands_of(page)]


def of_program(name: str) -> list[Command]:
    """The documented commands of one program."""
    return [command for command in COMMANDS if command.program == name]
