"""The sections of the settings, one class each; a stage gets only its own. Values are in conf/base.yaml."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from tasks.core.deadline import Deadline

SHORTEST_TOKEN = 16  # characters of serve.token
PROJECT = Path(__file__).resolve().parents[2]

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(Section):
    """Which reviews to read."""

    input: str | list[str] = Field(description="Files, folders or globs with reviews; local, s3:// or gs://")
    dataset: str = Field(description="A dataset profile: a name in conf/datasets, or a path to a YAML file")
    items: str | list[str] | None = Field(description="Product metadata, in the same ways; null: none")
    name: Annotated[str, Field(pattern=r"^[^{}:/\s]+$")] | None

    @property
    def called(self) -> str:
        """The data set's name: its own, or that of its profile."""
        return self.name or Path(self.dataset).stem

    @property
    def origin(self) -> str:
        """Tell data sets without a name of their own apart: by their inputs, absolute."""
        paths = [self.input] if isinstance(self.input, str) else self.input
        return "" if self.name else ", ".join(p if "://" in p else str(Path(p).absolute()) for p in paths)


class StorageConfig(Section):
    """Where snapshots, run records and reports go."""

    root: str
    remote: str | None = Field(description="A bucket for snapshots and run records, s3://BUCKET/PREFIX; null: none")
    keep_runs: Positive
    keep_days: Positive | None

    @property
    def path(self) -> Path:
        return PROJECT / self.root  # an absolute root stays unchanged


class RayConfig(Section):
    """The Ray session that stages run in."""

    address: str | None
    env: list[str] = Field(description="Environment variables to copy to a cluster's workers")
    logical_cpus: Positive | None
    object_store_mb: Annotated[int, Field(ge=100)]
    workers: Positive


class TrackingConfig(Section):
    """MLflow, where runs are recorded."""

    uri: str | None
    experiment: str
    system_metrics: bool
    price_per_core_hour: Annotated[float, Field(ge=0)] | None


class RetriesConfig(Section):
    """How often, and after which delays, a stage is retried after a transient fault."""

    times: Annotated[int, Field(ge=0, le=50)] | None  # Prefect's limit
    first_delay_s: Annotated[float, Field(ge=0)]
    factor: Annotated[float, Field(ge=1)]
    max_delay_s: Annotated[float, Field(ge=0)]
    jitter: Fraction

    def delays(self, times: int) -> list[float]:
        """Return the mean delay before each retry, in seconds: with the jitter, none is longer than max_delay_s."""
        longest = self.max_delay_s / (1 + self.jitter)
        return [min(self.first_delay_s * self.factor**i, longest) for i in range(times)]


Gain = Annotated[float, Field(lt=1)] | None  # a share of the rival's loss


class GatesConfig(Section):
    """What a model must pass to become champion; null switches a gate off."""

    max_loss: float | None
    min_gain_over_mean: Gain
    min_gain_over_linear: Gain
    min_gain_over_champion: Gain
    max_false_promotions: Annotated[float, Field(gt=0, lt=0.5)] | None
    min_test_rows: Positive | None
    slice_rows: Positive
    max_slice_regression: Annotated[float, Field(ge=0)] | None
    max_slice_ratio: Annotated[float, Field(gt=0)] | None
    max_packaged_difference: Annotated[float, Field(ge=0)] | None
    max_megabytes: Annotated[float, Field(gt=0)] | None
    max_ms_for_1_row: Annotated[float, Field(gt=0)] | None
    max_ms_for_1000_rows: Annotated[float, Field(gt=0)] | None


class RegistryConfig(Section):
    model_name: Annotated[str, Field(pattern=r"^([^{}:/]|\{target\}|\{dataset\})+$")]
    gates: GatesConfig

    def name_for(self, target: str, dataset: str) -> str:
        """The registered model's name for a target of a data set."""
        return self.model_name.replace("{target}", target).replace("{dataset}", dataset)


class RehearseConfig(Section):
    """What `raymill rehearse` compares."""

    model: Literal["untuned", "tuned"]
    gates: dict[str, dict[str, float | None]] = Field(description="Settings of gates to compare, by a name for each")

    @model_validator(mode="after")
    def _are_gates(self) -> RehearseConfig:
        known = GatesConfig.model_fields
        for name, changes in self.gates.items():
            if unknown := sorted(set(changes) - set(known)):
                raise ValueError(f"{name}: there is no gate {unknown[0]!r}; gates: {', '.join(known)}")
            if name in ("every_model", "first_model"):
                raise ValueError(f"{name} is there already, for comparison: choose another name")
            # Raises for a value out of range.
            GatesConfig.model_validate({**dict.fromkeys(known), "slice_rows": 1, **changes})
        return self

    def variants(self, gates: GatesConfig) -> dict[str, GatesConfig]:
        """Return the gates to compare: these with the changes of each variant, checked like all settings."""
        given = gates.model_dump()
        return {name: GatesConfig.model_validate({**given, **changes}) for name, changes in self.gates.items()}


class HistoryConfig(Section):
    """The comparison of tonight's numbers with those of past nights."""

    severity: Literal["warn", "fail"] | None
    nights: Annotated[int, Field(ge=3)]
    warm_up: Annotated[int, Field(ge=3)]
    since: date | None
    false_alarms: Annotated[float, Field(gt=0, lt=1)]
    min_change: Annotated[float, Field(ge=0)]
    stages: list[str]
    columns: list[str] | None

    @model_validator(mode="after")
    def _warms_up(self) -> HistoryConfig:
        if self.warm_up > self.nights:
            raise ValueError("warm_up must not be more than nights: nothing would ever be compared")
        return self


class ValidationConfig(Section):
    """What validation does beyond the expectations of conf/expectations."""

    history: HistoryConfig


def _secret(description: str) -> Any:
    """Declare a setting that holds a password and decides no output: it is never written to records."""
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
    auth: SecretStr | None = _secret("user:password, required of every client; needed unless host is loopback")
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


class FollowConfig(Section):
    """`raymill score --follow`: a folder that grows."""

    poll_seconds: Annotated[float, Field(gt=0)]
    idle_seconds: Annotated[float, Field(gt=0)] | None
    retry_seconds: Annotated[float, Field(gt=0)]
    files: Positive


class ServeConfig(Section):
    """`raymill serve`: predictions by HTTP."""

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    token: SecretStr | None = _secret("required of every client as a bearer token; needed unless host is loopback")
    through: Literal["ray", "process"]
    replicas: Positive
    poll_seconds: Annotated[float, Field(ge=0.1)]
    shadow: str | None
    shadow_log_mb: Annotated[float, Field(gt=0)]
    batch_reviews: Positive
    max_reviews: Positive
    max_body_kb: Positive
    max_waiting: Positive
    max_reasons: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _token_is_long(self) -> ServeConfig:
        if self.token and len(self.token.get_secret_value()) < SHORTEST_TOKEN:
            raise ValueError(f"token must have at least {SHORTEST_TOKEN} characters")
        return self


def _deadline(text: str) -> str:
    return str(Deadline.parse(text))


class NotifyConfig(Section):
    """Where to post how a run ended, and what else is posted there."""

    webhook: Annotated[SecretStr, AfterValidator(_web_address)] | None = _secret("URL to post to; null: no messages")
    events: list[
        Literal["ended", "promoted", "blocked", "rolled-back", "not-ready", "ready-late", "drifted", "retraining"]
    ]
    ready_by: Annotated[str, AfterValidator(_deadline)] | None


class RetrainConfig(Section):
    """When a run of `etl-train/default` is started beside its schedule."""

    when: list[Literal["expected", "realised", "files"]]
    pause_hours: Annotated[float, Field(ge=0)]
    settle_s: Annotated[float, Field(ge=0)]


class LoggingConfig(Section):
    """The log of a run."""

    # `json` is a method of pydantic's models.
    as_json: bool = Field(alias="json")
