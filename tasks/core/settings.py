"""Read the layers of settings, merge them, and check them against a model.

The later layer wins: conf/base.yaml, conf/profiles/NAME.yaml, RAYMILL__SECTION__KEY variables,
`--set section.key=value`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tasks.core import secrets
from tasks.core.errors import SettingsError
from tasks.core.sections import PROJECT, Section

CONF = PROJECT / "conf"
ENV_PREFIX = "RAYMILL__"
M = TypeVar("M", bound=Section)


def load(
    model: type[M],
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
) -> M:
    """Merge the layers into a root `model`. `given` holds section dictionaries and comes last.

    Raises SettingsError for an unknown key or a value of the wrong type, naming both.
    """
    opened = frozenset(_mappings(model))
    merged = _read_yaml(CONF / "base.yaml")
    _add_defaults(merged, model)
    for where, layer in _layers(profile, overrides):
        _merge(merged, layer, where=where, opened=opened)
    _merge(merged, dict(given or {}), where="parameters", opened=opened)
    try:
        settings = model(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        got = "" if _holds_secret(model, first["loc"]) else f" (got {first['input']!r})"
        raise SettingsError(
            f"{key}{': ' if key else ''}{first['msg']}{got}", where="settings", fix="see conf/base.yaml"
        ) from None
    secrets.remember(settings=settings)
    return settings


def load_section(name: str, model: type[M]) -> M:
    """Return one section from conf/base.yaml, for callers that have no settings."""
    return model(**_read_yaml(CONF / "base.yaml")[name])


def _add_defaults(values: dict[str, Any], model: type[BaseModel]) -> None:
    """Add what the model itself has a default for, so that it is known: the switches of groups of features."""
    for field, info in model.model_fields.items():
        name, kind = info.alias or field, info.annotation
        if not info.is_required():
            values.setdefault(name, info.get_default(call_default_factory=True))
        elif isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(values.get(name), dict):
            _add_defaults(values[name], kind)


def _layers(profile: str | None, overrides: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the layers above conf/base.yaml, lowest first, each with its place for error messages."""
    profile = profile or os.environ.get("RAYMILL_PROFILE")
    if profile:
        path = CONF / "profiles" / f"{profile}.yaml"
        if not path.exists():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
            raise SettingsError(f"no profile {profile!r}", where=str(path.parent), fix=f"known profiles: {known}")
        yield str(path), _read_yaml(path)
    for name in sorted(n for n in os.environ if n.startswith(ENV_PREFIX)):
        parts = name.removeprefix(ENV_PREFIX).lower().split("__")
        yield name, _layer(parts, _parse_value(os.environ[name], name))
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or "." not in name:
            raise SettingsError(
                f"{override!r} is not section.key=value", where="--set", fix="for example --set tune.trials=20"
            )
        yield f"--set {name}", _layer(name.strip().split("."), _parse_value(text, f"--set {name}"))


def _mappings(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yield the dotted paths of settings that are mappings with free keys, such as train.params."""
    for name, info in model.model_fields.items():
        for kind in (info.annotation, *get_args(info.annotation)):
            if get_origin(kind) is dict:
                yield f"{path}{name}"
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _mappings(kind, f"{path}{name}.")


def _holds_secret(model: type[BaseModel], place: Sequence[int | str]) -> bool:
    """Whether the setting at this place is, or contains, a secret. The root, which has no place, contains them all."""
    if not place:
        return True
    section = model.model_fields[str(place[0])].annotation if place[0] in model.model_fields else None
    fields = getattr(section, "model_fields", {})
    return any(info.exclude for name, info in fields.items() if name in place[1:] or len(place) == 1)


def _merge(
    below: dict[str, Any], above: Mapping[str, Any], *, where: str, opened: frozenset[str], path: str = ""
) -> None:
    for key, value in above.items():
        name = f"{path}{key}"
        if key not in below and path.removesuffix(".") not in opened:
            from difflib import get_close_matches

            near = get_close_matches(key, below, n=1)
            hint = f"did you mean {path}{near[0]}?" if near else f"known: {', '.join(sorted(below))}"
            raise SettingsError(f"unknown setting {name!r}", where=where, fix=hint)
        if isinstance(below.get(key), dict) and isinstance(value, dict):
            _merge(below[key], value, where=where, opened=opened, path=f"{name}.")
        else:
            below[key] = value


def _layer(path: Sequence[str], value: Any) -> dict[str, Any]:
    for part in reversed(path[1:]):
        value = {part: value}
    return {path[0]: value}


def _parse_value(text: str, where: str) -> Any:
    import yaml

    if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text):
        return float(text)  # YAML 1.1 reads 1e-3 as text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SettingsError(
            f"cannot read the value {text!r}: {reason}", where=where, fix="quote it as YAML would"
        ) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml  # imported late: worker processes use the sections' types and read no file

    try:
        loaded = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"cannot be read: {error}", where=str(path)) from None
    if not isinstance(loaded, dict):
        raise SettingsError("expected a mapping of sections", where=str(path))
    return loaded
