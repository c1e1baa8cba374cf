"""Settings: one frozen root, built once, each stage given its own section.

Later wins: conf/base.yaml, conf/profiles/NAME.yaml, RAYMILL__SECTION__KEY variables, `--set section.key=value`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.core.errors import SettingsError

PROJECT = Path(__file__).resolve().parents[2]
CONF = PROJECT / "conf"
ENV_PREFIX = "RAYMILL__"

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(Section):
    """Which reviews to read."""

    input: str | list[str] = Field(description="Files, folders or globs with reviews; local, s3:// or gs://")
    dataset: str = Field(description="A dataset profile: a name in conf/datasets, or a path to a YAML file")
    items: str | list[str] | None = Field(description="Product metadata, the same way; null: there is none")


class StorageConfig(Section):
    """Where snapshots, run records and reports go."""

    root: str
    keep_runs: Positive

    @property
    def path(self) -> Path:
        return PROJECT / self.root  # an absolute root stays as it is


class RayConfig(Section):
    """The Ray session that stages run in."""

    address: str | None
    logical_cpus: Positive | None
    object_store_mb: Annotated[int, Field(ge=100)]
    workers: Positive


class TrackingConfig(Section):
    """MLflow."""

    uri: str | None
    experiment: str


class ReadConfig(Section):
    """How far a source is trusted."""

    damaged_files: Literal["quarantine", "refuse"]
    max_reject_fraction: Fraction
    max_record_mb: Positive
    max_unpacked_gb: Positive
    max_unpacked_ratio: Positive
    max_columns: Positive


class IngestConfig(ReadConfig):
    min_rows: Positive
    earliest: date
    latest: date | None = Field(description="The last day a review can be from; null: the day after ingest runs")


class IngestItemsConfig(ReadConfig):
    pass


class ItemsConfig(Section):
    buckets: Positive


class CleanConfig(Section):
    normalize_unicode: bool
    decode_entities: bool
    remove_html: bool
    remove_urls: bool
    remove_control: bool
    collapse_spaces: bool
    drop_duplicates: bool
    drop_repeated_pairs: bool


class DescribeConfig(Section):
    buckets: Positive


class NearDuplicatesConfig(Section):
    enabled: bool
    min_words: Positive
    similarity: Fraction
    buckets: Positive


class CountWordsConfig(Section):
    splitting: Literal["words", "gpt2"]
    ngrams: Annotated[int, Field(ge=1, le=3)]
    reducers: Positive
    spill_mb: Positive


class TokenizeConfig(Section):
    tokenizer: Annotated[str, Field(min_length=1)]
    max_tokens: Positive | None


class PackTokensConfig(Section):
    enabled: bool
    block_size: Annotated[int, Field(ge=2)]
    format: Literal["bin", "parquet"]


class LanguageModelConfig(Section):
    enabled: bool
    order: Annotated[int, Field(ge=1, le=3)]
    periods: Annotated[int, Field(ge=2, le=32)]
    min_count: Positive
    backoff: Annotated[float, Field(gt=0, lt=1)]
    partitions: Positive
    spill_mb: Positive


class TextScoreConfig(Section):
    enabled: bool
    dimensions: Annotated[int, Field(ge=1024)]
    blocks: Annotated[int, Field(ge=2)]
    shards: Positive
    l2: Annotated[float, Field(gt=0)]
    iterations: Positive


class FeaturesConfig(Section):
    buckets: Positive
    text_score: TextScoreConfig


class SplitConfig(Section):
    train: Annotated[float, Field(gt=0, lt=1)]
    valid: Annotated[float, Field(gt=0, lt=1)]
    min_rows: Positive

    @model_validator(mode="after")
    def _leaves_a_test_slice(self) -> SplitConfig:
        if self.train + self.valid >= 1:
            raise ValueError("train + valid must leave a test slice: their sum must be below 1")
        return self


class TrainConfig(Section):
    workers: Positive
    rounds: Positive
    params: dict[str, float | int | str]
    seed: int


def _check_space(space: dict[str, list[float | int | str]]) -> dict[str, list[float | int | str]]:
    for name, bounds in space.items():
        low_high, scale = bounds[:2], bounds[2:]
        if len(low_high) != 2 or not all(isinstance(b, (int, float)) for b in low_high) or scale not in ([], ["log"]):
            raise ValueError(f"{name}: expected [low, high] or [low, high, log], got {bounds}")
        if low_high[0] >= low_high[1]:  # type: ignore[operator]  # both are numbers, checked above
            raise ValueError(f"{name}: low must be below high, got {bounds}")
    return space


class TuneConfig(Section):
    trials: Positive
    concurrent: Positive
    max_rounds: Positive
    min_rounds: Positive
    seed: int
    space: Annotated[dict[str, list[float | int | str]], AfterValidator(_check_space)]


class EvaluateConfig(Section):
    short_chars: Positive
    categories: Positive


class RegistryConfig(Section):
    model_name: str
    min_gain_over_mean: float
    min_gain_over_champion: float


class ReportConfig(Section):
    title: str


class Settings(Section):
    """All settings of a run. Build it with `load_settings`."""

    data: DataConfig
    storage: StorageConfig
    ray: RayConfig
    tracking: TrackingConfig
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
    features: FeaturesConfig
    split: SplitConfig
    train: TrainConfig
    tune: TuneConfig
    evaluate: EvaluateConfig
    registry: RegistryConfig
    report: ReportConfig


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
        raise SettingsError(
            f"{key}: {first['msg']} (got {first['input']!r})", where="settings", fix="see conf/base.yaml"
        ) from None


def _merge(below: dict[str, Any], above: dict[str, Any], *, where: str, path: str = "") -> None:
    for key, value in above.items():
        name = f"{path}{key}"
        # train.params and tune.space are open: any key of the library may be added.
        if key not in below and path not in ("train.params.", "tune.space."):
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
