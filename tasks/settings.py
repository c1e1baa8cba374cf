"""The settings of a run: one frozen root with a section for each stage, built once in the flow.

A stage brings its own section: the class that its declaration names (`@stage(config=…)`). The others are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import create_model, model_validator

from tasks.core import settings as layers
from tasks.core.errors import SettingsError
from tasks.core.sections import (
    DataConfig,
    FollowConfig,
    LoggingConfig,
    NotifyConfig,
    RayConfig,
    RegistryConfig,
    RehearseConfig,
    RetrainConfig,
    RetriesConfig,
    Section,
    ServeConfig,
    ServicesConfig,
    StorageConfig,
    TrackingConfig,
    ValidationConfig,
)
from tasks.stages import declared_stages


class CommonSettings(Section):
    """The sections that belong to no stage."""

    data: DataConfig
    storage: StorageConfig
    ray: RayConfig
    tracking: TrackingConfig
    retries: RetriesConfig
    notify: NotifyConfig
    retrain: RetrainConfig
    logging: LoggingConfig
    validation: ValidationConfig
    registry: RegistryConfig
    rehearse: RehearseConfig
    services: ServicesConfig
    serve: ServeConfig
    follow: FollowConfig

    @model_validator(mode="before")
    @classmethod
    def _search_what_is_trained(cls, values: Any) -> Any:
        """Give the search the parameters that are fixed for training: it would promise another model's loss."""
        train, tune = (values.get(name) for name in ("train", "tune")) if isinstance(values, dict) else (None, None)
        if not (isinstance(train, dict) and isinstance(tune, dict) and isinstance(train.get("params"), dict)):
            return values
        params = dict(train["params"])
        bins = params.pop("max_bin", None)
        searched = {name for name, axis in (tune.get("space") or {}).items() if axis is not None}
        fixed = {name: value for name, value in params.items() if name not in searched}
        tune = {**tune, "fixed": fixed, "max_bin": bins if tune.get("max_bin") is None else tune["max_bin"]}
        return {**values, "tune": tune}


if TYPE_CHECKING:

    class Settings(CommonSettings):
        """All settings of a run. Build it with `load_settings`."""

        def __getattr__(self, section: str) -> Any:
            """Return the section of a stage."""

else:
    Settings = create_model(
        "Settings",
        __base__=CommonSettings,
        __module__=__name__,
        __doc__="All settings of a run. Build it with `load_settings`.",
        **{stage.section: (stage.config, ...) for stage in declared_stages().values()},
    )


def load_settings(*, profile: str | None = None, overrides: Sequence[str] = (), **given: Any) -> Settings:
    """Merge the layers. `given` are section dictionaries on top of all; overrides are "section.key=value" texts.

    Raises SettingsError for an unknown key or a value of the wrong type, naming both.
    """
    settings = layers.load(Settings, profile=profile, overrides=overrides, given=given)
    known = declared_stages()
    if unknown := sorted(set(settings.validation.history.stages) - set(known)):
        fix = f"stages: {', '.join(known)}"
        raise SettingsError(f"there is no stage {unknown[0]!r}", where="validation.history.stages", fix=fix)
    return settings
