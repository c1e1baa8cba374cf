"""The sections of the settings, one class each; a stage is given its own and no other. Values are in conf/base.yaml."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from tasks.domain import search_space

PROJECT = Path(__file__).resolve().parents[2]

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
    remote: str | None = Field(description="A bucket for snapshots and run records, s3://BUCKET/PREFIX; null: none")
    keep_runs: Positive

    @property
    def path(self) -> Path:
        return PROJECT / self.root  # an absolute root stays as it is


class RayConfig(Section):
    """The Ray session that stages run in."""

    address: str | None
    env: list[str] = Field(description="Names of this process's variables that workers on a cluster get, too")
    logical_cpus: Positive | None
    object_store_mb: Annotated[int, Field(ge=100)]
    workers: Positive


class TrackingConfig(Section):
    """MLflow."""

    uri: str | None
    experiment: str
    system_metrics: bool


class RetriesConfig(Section):
    """How often, and after which delays, a stage that met a transient fault is tried again."""

    times: Annotated[int, Field(ge=0, le=50)] | None  # Prefect takes no more
    first_delay_s: Annotated[float, Field(ge=0)]
    factor: Annotated[float, Field(ge=1)]
    max_delay_s: Annotated[float, Field(ge=0)]
    jitter: Fraction

    def delays(self, times: int) -> list[float]:
        """Mean delays before so many retries, in seconds: with the jitter, none is longer than max_delay_s."""
        longest = self.max_delay_s / (1 + self.jitter)
        return [min(self.first_delay_s * self.factor**i, longest) for i in range(times)]


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
    stopping: search_space.Stopping
    min_rounds: Positive
    patience: Positive
    seed: Annotated[int, Field(ge=0)]
    # Where the trials are kept decides nothing about what they find, and a password must not get into a manifest: it
    # is left out of all that is written down.
    storage: SecretStr | None = Field(None, exclude=True, description="URL of a database; null: a file of its own")
    space: Annotated[dict[str, search_space.Axis | None], AfterValidator(search_space.check)]
    first: Annotated[dict[str, search_space.Value | None], AfterValidator(search_space.check_names)]


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


def _secret(description: str) -> Any:
    """A setting that is left out of all that is written down: it decides nothing, and holds a password."""
    return Field(None, exclude=True, description=description)


def _web_address(url: SecretStr) -> SecretStr:
    if not re.match(r"https?://[^/\s]+", url.get_secret_value()):
        raise ValueError("must be a URL that begins with http:// or https://")
    return url


class ServicesConfig(Section):
    """The servers and the worker of `raymill up`."""

    host: Annotated[str, Field(min_length=1)]
    prefect_port: Annotated[int, Field(ge=1, le=65535)]
    mlflow_port: Annotated[int, Field(ge=1, le=65535)]
    auth: SecretStr | None = _secret("user:password, asked of everybody; needed where host is not loopback")
    prefect_database: SecretStr | None = _secret("URL of Prefect's database; null: SQLite")
    mlflow_database: SecretStr | None = _secret("URL of MLflow's database; null: SQLite")
    mlflow_artifacts: str | None
    allowed_hosts: list[str]
    poll_seconds: Annotated[float, Field(ge=0.5)]

    @model_validator(mode="after")
    def _auth_is_a_pair(self) -> ServicesConfig:
        if self.auth and not all(self.auth.get_secret_value().partition(":")[::2]):
            raise ValueError("auth must be user:password")
        return self


class NotifyConfig(Section):
    """Who is told how a run ended."""

    webhook: Annotated[SecretStr, AfterValidator(_web_address)] | None = _secret("URL to post to; null: nobody is told")


class LoggingConfig(Section):
    """The log of a run."""

    # `json` is a method of pydantic's models.
    as_json: bool = Field(alias="json")
