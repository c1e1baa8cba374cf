"""Settings: one frozen root, built once, each stage given its own section.

Later wins: conf/base.yaml, conf/profiles/NAME.yaml, RAYMILL__SECTION__KEY variables, `--set section.key=value`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.core.errors import SettingsError
from tasks.core.sections import (
    PROJECT,
    CleanConfig,
    CountWordsConfig,
    DataConfig,
    DescribeConfig,
    EmbeddingsConfig,
    EvaluateConfig,
    FeaturesConfig,
    IngestConfig,
    IngestItemsConfig,
    ItemsConfig,
    LanguageModelConfig,
    LoggingConfig,
    NearDuplicatesConfig,
    NotifyConfig,
    PackTokensConfig,
    RayConfig,
    RegistryConfig,
    ReportConfig,
    RetriesConfig,
    Section,
    ServicesConfig,
    SplitConfig,
    StorageConfig,
    TokenizeConfig,
    TrackingConfig,
    TrainConfig,
    TuneConfig,
)

CONF = PROJECT / "conf"
ENV_PREFIX = "RAYMILL__"


class Settings(Section):
    """All settings of a run. Build it with `load_settings`."""

    data: DataConfig
    storage: StorageConfig
    ray: RayConfig
    tracking: TrackingConfig
    retries: RetriesConfig
    notify: NotifyConfig
    logging: LoggingConfig
    ingest: IngestConfig
    ingest_items: IngestItemsConfig
    items: ItemsConfig
    clean: CleanConfig
    describe: DescribeConfig
    near_duplicates: NearDuplicatesConfig
    count_words: CountWordsConfig
    tokenize: TokenizeConfig
    pack_tokens: PackTokensConfig
    language_model: LanguageModelConfig
    embeddings: EmbeddingsConfig
    features: FeaturesConfig
    split: SplitConfig
    train: TrainConfig
    tune: TuneConfig
    evaluate: EvaluateConfig
    registry: RegistryConfig
    report: ReportConfig
    services: ServicesConfig


def load_settings(*, profile: str | None = None, overrides: Sequence[str] = (), **given: Any) -> Settings:
    """Merge the layers. `given` are section dictionaries on top of all; overrides are "section.key=value" texts.

    Raises SettingsError for an unknown key or a value of the wrong type, naming both.
    """
    merged = _read_yaml(CONF / "base.yaml")
    profile = profile or os.environ.get("RAYMILL_PROFILE")
    if profile:
        path = CONF / "profiles" / f"{profile}.yaml"
        if not path.exists():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
            raise SettingsError(f"no profile {profile!r}", where=str(path.parent), fix=f"known profiles: {known}")
        _merge(merged, _read_yaml(path), where=str(path))
    for name in sorted(n for n in os.environ if n.startswith(ENV_PREFIX)):
        parts = name.removeprefix(ENV_PREFIX).lower().split("__")
        _merge(merged, _layer(parts, _parse_value(os.environ[name], name)), where=name)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or "." not in name:
            raise SettingsError(
                f"{override!r} is not section.key=value", where="--set", fix="for example --set tune.trials=20"
            )
        layer = _layer(name.strip().split("."), _parse_value(text, f"--set {name}"))
        _merge(merged, layer, where=f"--set {name}")
    _merge(merged, given, where="parameters")
    try:
        return Settings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        got = "" if _holds_secret(first["loc"]) else f" (got {first['input']!r})"
        raise SettingsError(f"{key}: {first['msg']}{got}", where="settings", fix="see conf/base.yaml") from None


def _holds_secret(place: Sequence[int | str]) -> bool:
    """Whether what is at this place of the settings is, or contains, one that must not be shown."""
    section = Settings.model_fields[str(place[0])].annotation if place[0] in Settings.model_fields else None
    fields = getattr(section, "model_fields", {})
    return any(info.exclude for name, info in fields.items() if name in place[1:] or len(place) == 1)


def _merge(below: dict[str, Any], above: dict[str, Any], *, where: str, path: str = "") -> None:
    for key, value in above.items():
        name = f"{path}{key}"
        # These are open: any key of the library may be added.
        if key not in below and path not in ("train.params.", "tune.space.", "tune.first."):
            from difflib import get_close_matches

            near = get_close_matches(key, below, n=1)
            hint = f"did you mean {path}{near[0]}?" if near else f"known: {', '.join(sorted(below))}"
            raise SettingsError(f"unknown setting {name!r}", where=where, fix=hint)
        if isinstance(below.get(key), dict) and isinstance(value, dict):
            _merge(below[key], value, where=where, path=f"{name}.")
        else:
            below[key] = value


def _layer(path: Sequence[str], value: Any) -> dict[str, Any]:
    for part in reversed(path[1:]):
        value = {part: value}
    return {path[0]: value}


def _parse_value(text: str, where: str) -> Any:
    import yaml

    if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text):
        return float(text)  # YAML 1.1 takes 1e-3 for a word
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SettingsError(
            f"cannot read the value {text!r}: {reason}", where=where, fix="quote it as YAML would"
        ) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml  # not before: worker processes know the sections' types and read no file

    try:
        loaded = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"cannot be read: {error}", where=str(path)) from None
    if not isinstance(loaded, dict):
        raise SettingsError("expected a mapping of sections", where=str(path))
    return loaded


def masked(uri: str) -> str:
    """A URI with its password, if any, replaced: safe to print and to record."""
    return re.sub(r"(://[^/:@]*):.*@", r"\1:***@", uri)
