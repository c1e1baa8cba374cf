"""docs/reference.md is up to date, and the code that writes it reads settings and types correctly."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from flows.cli.reference import PAGE, VARIABLES, page, type_text
from tasks.core.sections import PROJECT
from tasks.core.settings import CONF


def leaves(values: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for name, value in values.items():
        is_section = isinstance(value, dict) and "choice" not in value
        found += leaves(value, f"{path}{name}.") if is_section else [f"{path}{name}"]
    return found


def row_of(name: str) -> list[str]:
    (line,) = (line for line in page().splitlines() if line.startswith(f"| `{name}` |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_page_is_what_the_code_writes() -> None:
    assert PAGE.read_text() == page(), "run: make docs"


def test_every_setting_has_a_row() -> None:
    names = leaves(yaml.safe_load((CONF / "base.yaml").read_text()))
    assert len(names) > 100
    text = page()
    assert [name for name in names if f"| `{name}` |" not in text] == []


def test_a_setting_that_is_made_from_others_has_no_row() -> None:
    assert "`tune.fixed`" not in page()


def test_a_row_says_values_default_and_the_whole_comment() -> None:
    assert row_of("tune.trials")[:2] == ["whole number from 1", "`12`"]
    assert row_of("features.target")[0] == "`rating`, `positive`, `stars` or `helpful`"
    assert row_of("features.target")[2].endswith("that are helpful)")  # on the second line of the comment
    assert row_of("notify.webhook")[0] == "text, *secret*, or null"
    assert row_of("tune.space.eta")[:2] == ["range or choice, or null", "`[0.03, 0.3, log]`"]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "number above 0 and below 1"),
        ({"type": "number", "exclusiveMaximum": 1}, "number below 1"),
        ({"type": "integer", "minimum": 1, "maximum": 3}, "whole number from 1 up to 3"),
        ({"anyOf": [{"type": "number"}, {"type": "integer"}, {"type": "string"}]}, "number, or text"),
        ({"type": "array", "items": {"type": "string"}}, "list of texts"),
        ({"type": "string", "format": "date"}, "date"),
    ],
)
def test_types_are_told_in_words(schema: dict[str, Any], words: str) -> None:
    assert type_text(schema, {}) == words


def test_every_variable_is_one_that_the_code_reads() -> None:
    sources = [*(PROJECT / "flows").rglob("*.py"), *(PROJECT / "tasks").rglob("*.py")]
    code = "".join(file.read_text() for file in sources if file.name != "reference.py")
    assert [name for name in VARIABLES if name != "RAYMILL__SECTION__KEY" and name not in code] == []
