"""Write docs/reference.md: every setting, variable and command, from the code and conf/base.yaml.

python -m flows.cli.reference
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from flows.run.names import stage_names
from tasks.core.sections import PROJECT
from tasks.core.settings import CONF
from tasks.settings import Settings

PAGE = PROJECT / "docs" / "reference.md"
TOP = """\
<!-- Written by `make docs` from conf/base.yaml, tasks/core/sections.py, the stages' settings, flows/cli/main.py and
     flows/cli/reference.py: change those instead. -->
# Reference

[Settings](#settings) · [Variables](#variables) · [Commands](#commands)

## Settings

Settings come from conf/base.yaml, a profile (conf/profiles/NAME.yaml with `--profile NAME`), variables such as
`RAYMILL__TUNE__TRIALS=30`, and `--set tune.trials=30`; later ones override earlier ones. Values are YAML. A stage uses
the section of its name, `refit` that of `train`, `register` that of `registry`; a changed section reruns the stages
that depend on it. A setting marked *secret* is never recorded: set it by its variable.
"""
# Environment variables. A test looks for each name in the code.
VARIABLES = {
    "RAYMILL__SECTION__KEY": "a setting; `__` also goes before each deeper key: `RAYMILL__REGISTRY__GATES__MAX_LOSS`",
    "RAYMILL_PROFILE": "the profile, if `--profile` is not given",
    "RAYMILL_SERVICES_DIR": "the folder of `raymill up`: its lock, state and log, MLflow's users; default "
    "data/services",
    "PREFECT_API_URL": "Prefect's server. If not set, that of a running `raymill up`; without one, `raymill run` "
    "starts a temporary server and `raymill up` a permanent one",
    "PREFECT_API_AUTH_STRING": "`user:password`, for a Prefect server with a password",
    "PREFECT_HOME": "the folder of Prefect's own files, such as its SQLite database; default data/prefect",
    "MLFLOW_TRACKING_URI": "MLflow's database or server, if `tracking.uri` is null; default mlruns/mlflow.db",
    "MLFLOW_TRACKING_USERNAME": "for an MLflow server with a password, with `MLFLOW_TRACKING_PASSWORD`",
    "RAY_ADDRESS": "a Ray cluster, if `ray.address` is null",
}
TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "null": "null", "object": "mapping"}
FORMATS = {"date": "date", "password": "text, *secret*"}
VALUES = {int: "NUMBER", Path: "PATH"}  # of options
DERIVED = {"tune.fixed"}  # settings that nobody sets: tasks/settings.py fills them from others


@dataclass(frozen=True)
class Setting:
    """A leaf of conf/base.yaml: its dotted name, the values it takes, its default as YAML, and its description."""

    name: str
    type: str
    default: str
    says: str


def page() -> str:
    """Return the whole page."""
    parts = [TOP, *sections(), variables(), *commands()]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def sections() -> Iterator[str]:
    """Yield a heading, a sentence and a table for each section."""
    text = (CONF / "base.yaml").read_text()
    schema = Settings.model_json_schema()
    conf: Any = yaml.compose(text)
    for key, node in conf.value:
        section = _resolved(schema["properties"][key.value], schema)
        stage = key.value.replace("_", "-")
        sentences = [f"of the stage `{stage}`"] if stage in stage_names() else []
        sentences.append(section.get("description") or _comment(text, key.end_mark))
        intro = " ".join(_sentence(part) for part in sentences if part)
        leaves = settings(text, key, node, section, schema)
        rows = [[f"`{s.name}`", s.type, f"`{s.default}`" if s.default else "", s.says] for s in leaves]
        table = _table(["setting", "value", "default", ""], rows)
        yield "\n\n".join(part for part in (f"### {key.value}", intro, table) if part)


def settings(text: str, key: Any, node: Any, about: Any, schema: Any, path: str = "") -> Iterator[Setting]:
    """Yield the leaves at and below a key of conf/base.yaml (YAML nodes), with types and descriptions of the schema.

    Settings that are only in the schema, such as the switches of groups of features, come last.
    """
    name = f"{path}{key.value}"
    properties = about.get("properties", {})
    if not isinstance(node, yaml.MappingNode) or (node.flow_style and not properties):
        default = text[node.start_mark.index : node.end_mark.index]
        comment = _comment(text, node.end_mark) or about.get("description", "")
        yield Setting(name, type_text(about, schema), default, comment)
        return
    if path and (comment := _comment(text, key.end_mark)):
        yield Setting(name, "mapping", "", comment)
    for below, value in node.value:
        known = properties.get(below.value) or about["additionalProperties"]
        yield from settings(text, below, value, _resolved(known, schema), schema, f"{name}.")
    in_file = {below.value for below, _ in node.value}
    for field, known in properties.items():
        if field not in in_file and f"{name}.{field}" not in DERIVED:
            default = json.dumps(known["default"])
            yield Setting(f"{name}.{field}", type_text(known, schema), default, known["description"])


def type_text(about: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Describe a JSON schema in words: "whole number from 1, or null"."""
    about = _resolved(about, schema)
    if any_of := about.get("anyOf"):
        kinds = [type_text(one, schema) for one in any_of]
        return ", or ".join(k for k in dict.fromkeys(kinds) if k != "whole number" or "number" not in kinds)
    if values := about.get("enum"):
        return " or ".join([", ".join(f"`{v}`" for v in values[:-1]), f"`{values[-1]}`"])
    if about.get("title") == "Axis":
        return "range or choice"
    if about["type"] == "array":
        return f"list of {type_text(about['items'], schema)}s"
    kind = FORMATS.get(about.get("format", ""), TYPES.get(about["type"], "text"))
    least = {"minimum": "from", "exclusiveMinimum": "above"}
    most = {"maximum": "up to", "exclusiveMaximum": "and below" if least.keys() & about.keys() else "below"}
    return " ".join([kind, *(f"{word} {about[bound]:g}" for bound, word in (least | most).items() if bound in about)])


def _resolved(about: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    resolved: Mapping[str, Any] = schema["$defs"][about["$ref"].rpartition("/")[2]] if "$ref" in about else about
    return resolved


def _comment(text: str, mark: Any) -> str:
    """Return the comment behind a place in the text, with the comment lines directly below."""
    first, *below = text.splitlines()[mark.line :]
    lines = [first[mark.column :].partition("#")[2].strip()]
    for line in below:
        if not lines[0] or not line.strip().startswith("#"):
            break
        lines.append(line.strip(" #"))
    return re.sub(r"&\w+;", r"`\g<0>`", " ".join(lines).strip())


def variables() -> str:
    rows = [[f"`{name}`", says] for name, says in VARIABLES.items()]
    rows.append(["`AWS_ACCESS_KEY_ID` and the like", "credentials for `s3://` addresses, as for other tools"])
    return "## Variables\n\n" + _table(["variable", ""], rows)


def commands() -> Iterator[str]:
    """Yield a heading, the help and a table of options for each command of `raymill`."""
    from typer.main import get_command

    from flows.cli.main import app

    yield "## Commands\n\nExit status: 0 done, 1 a failed run, 2 a user's mistake, 130 interrupted.\n"

    def walk(command: Any, name: str) -> Iterator[str]:
        if hasattr(command, "commands"):
            for word, below in command.commands.items():
                yield from walk(below, f"{name} {word}")
        else:
            yield _command(command, name)

    yield from walk(get_command(app), "raymill")


def _command(command: Any, name: str) -> str:
    types = get_type_hints(inspect.unwrap(command.callback))
    rows, usage = [], [name]
    for parameter in command.params:
        value = "" if getattr(parameter, "is_flag", False) else _value(parameter, types[parameter.name])
        named = parameter.param_type_name == "option"
        shown = " ".join(part for part in (parameter.opts[0] if named else "", value) if part)
        if parameter.required:
            usage.append(shown)
        default = parameter.default
        also = f"; {default} if not given" if default not in (None, False, [], ()) else ""
        rows.append([f"`{shown}`", f"{(parameter.help or '').rstrip('.')}{also}".lstrip("; ")])
    text = "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n"))
    table = _table(["option", ""], rows) if rows else ""
    return "\n\n".join(part for part in (f"### {' '.join(usage)}", text, table) if part)


def _value(parameter: Any, annotation: Any) -> str:
    """Return the placeholder of a parameter's value: its metavar, or a word for its type."""
    for _ in range(2):  # list[str] | None
        inner = [one for one in get_args(annotation) if one is not NoneType]
        annotation = inner[0] if inner else annotation
    word = parameter.metavar or (parameter.name.upper() if parameter.param_type_name == "argument" else "")
    assert get_origin(annotation) is None
    return (word or VALUES.get(annotation, "TEXT")) + (" ..." if parameter.multiple or parameter.nargs == -1 else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
