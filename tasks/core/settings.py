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

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from tasks.core import search_space
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


class SvdConfig(Section):
    buckets: Annotated[int, Field(ge=1024)]
    oversampling: Annotated[int, Field(ge=0)]
    iterations: Annotated[int, Field(ge=0)]


class Word2VecConfig(Section):
    window: Annotated[int, Field(ge=1, le=20)]
    negatives: Positive
    epochs: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    subsample: Annotated[float, Field(gt=0, le=1)]
    min_count: Positive
    batch: Positive


class SegmentsConfig(Section):
    enabled: bool
    min_clusters: Annotated[int, Field(ge=2)]
    max_clusters: Annotated[int, Field(le=64)]
    starts: Positive
    sample: Annotated[int, Field(ge=10, le=10_000)]

    @model_validator(mode="after")
    def _has_a_number_of_clusters_to_try(self) -> SegmentsConfig:
        if self.max_clusters < self.min_clusters:
            raise ValueError("max_clusters must not be below min_clusters")
        return self


class EmbeddingsConfig(Section):
    enabled: bool
    method: Literal["svd", "skip-gram", "cbow"]
    dimensions: Annotated[int, Field(ge=1, le=256)]
    fit_share: Annotated[float, Field(gt=0, lt=1)]
    shards: Positive
    seed: Annotated[int, Field(ge=0)]
    svd: SvdConfig
    word2vec: Word2VecConfig
    segments: SegmentsConfig


class TextScoreConfig(Section):
    dimensions: Annotated[int, Field(ge=1024)]
    blocks: Annotated[int, Field(ge=2)]
    shards: Positive
    l2: Annotated[float, Field(gt=0)]
    ridge_l2: Annotated[float, Field(gt=0)]
    iterations: Positive
    max_reviews: Positive


class FeatureGroups(Section):
    user: bool
    item: bool
    helpful: bool | None = Field(description="null: for the target helpful alone")
    catalogue: bool
    shape: bool
    context: bool
    stars: bool
    text: bool
    language: bool
    embeddings: bool


class FeaturesConfig(Section):
    target: Literal["rating", "positive", "stars", "helpful"]
    min_votes: Positive
    groups: FeatureGroups
    buckets: Positive
    text_score: TextScoreConfig


class SplitConfig(Section):
    by: Literal["time", "user", "both"]
    train: Annotated[float, Field(gt=0, lt=1)]
    valid: Annotated[float, Field(gt=0, lt=1)]
    seed: int
    repeats: Literal["leave_out", "keep"]
    repeats_min_chars: Positive
    min_rows: Positive

    @model_validator(mode="after")
    def _leaves_a_test_slice(self) -> SplitConfig:
        if self.train + self.valid >= 1:
            raise ValueError("train + valid must leave a test slice: their sum must be below 1")
        return self


class TrainConfig(Section):
    workers: Positive
    nthread: Positive | None
    device: Literal["auto", "cpu", "cuda"]
    external_memory: bool
    rounds: Positive
    early_stopping_rounds: Positive | None
    checkpoint_rounds: Positive | None
    params: dict[str, float | int | str]
    seed: int


class TuneConfig(Section):
    algorithm: search_space.Algorithm
    trials: Positive
    grid_points: Positive
    concurrent: Positive | None = Field(description="Trials at once; null: as many as there are cores")
    max_rounds: Positive
    min_rounds: Positive
    patience: Positive
    seed: Annotated[int, Field(ge=0)]
    # Where the trials are kept decides nothing about what they find, and a password must not get into a manifest: it
    # is left out of all that is written down.
    storage: SecretStr | None = Field(None, exclude=True, description="URL of a database; null: a file of its own")
    space: Annotated[dict[str, search_space.Axis | None], AfterValidator(search_space.check)]


class EvaluateConfig(Section):
    short_chars: Positive
    categories: Positive
    worse_than: Annotated[float, Field(gt=1)]
    min_rows: Positive
    resamples: Annotated[int, Field(ge=100)]
    shap_rows: Positive
    worst: Positive
    seed: int


Gain = Annotated[float, Field(lt=1)] | None  # a share of the rival's loss


class GatesConfig(Section):
    """What a model must pass to become champion; null switches a gate off."""

    max_loss: float | None
    min_gain_over_mean: Gain
    min_gain_over_linear: Gain
    min_gain_over_champion: Gain
    slice_rows: Positive
    max_slice_regression: Annotated[float, Field(ge=0)] | None
    max_slice_ratio: Annotated[float, Field(gt=0)] | None
    max_megabytes: Annotated[float, Field(gt=0)] | None
    max_ms_for_1_row: Annotated[float, Field(gt=0)] | None
    max_ms_for_1000_rows: Annotated[float, Field(gt=0)] | None


class RegistryConfig(Section):
    model_name: Annotated[str, Field(pattern=r"^([^{}:/]|\{target\})+$")]
    gates: GatesConfig

    def name_for(self, target: str) -> str:
        """The registered model's name for one target."""
        return self.model_name.replace("{target}", target)


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
    embeddings: EmbeddingsConfig
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
