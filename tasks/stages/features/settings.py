"""Settings of the stage `features`, with a switch for each declared group, and the features that they select."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import AfterValidator, Field, create_model

from tasks.core.errors import SettingsError
from tasks.core.sections import Positive, Section
from tasks.domain.targets import TARGETS, target_of
from tasks.stages.features.groups import declared_groups
from tasks.stages.features.text_score_settings import TextScoreConfig

Groups: TypeAlias = dict[str, list[str]]  # the names of the features of each group

if TYPE_CHECKING:

    class FeatureGroups(Section):
        def __getattr__(self, group: str) -> bool | None:
            """Return the switch of a group."""

else:
    FeatureGroups = create_model(
        "FeatureGroups",
        __base__=Section,
        __module__=__name__,
        **{
            group.name: (bool if group.on is not None else bool | None, Field(group.on, description=group.says))
            for group in declared_groups().values()
        },
    )


def _known(target: str) -> str:
    return target_of(target).name


class FeaturesConfig(Section):
    target: Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": [*TARGETS]})]
    min_votes: Positive
    groups: FeatureGroups
    buckets: Positive
    text_score: TextScoreConfig


def wanted_groups(
    config: FeaturesConfig,
    *,
    with_items: bool,
    with_language: bool,
    embedded: Sequence[str] = (),
    with_deep: bool = False,
) -> Groups:
    """Return the groups that are on and the names of their features, without those that lack an input.

    embedded: the columns of the stage `embeddings`.

    Raises SettingsError if no group is left.
    """
    switched = config.groups.model_dump()
    target = target_of(config.target)
    for group, on in switched.items():
        if on is None:
            switched[group] = group not in target.off
        switched[group] &= group not in target.leaks
    columns = {group.name: list(group.columns) for group in declared_groups().values()}
    choices = [name for name, names in columns.items() if names]
    columns["embeddings"] = list(embedded)
    if not with_language:
        columns["language"] = []
    if not with_deep:
        columns["deep"] = []
    if not with_items:
        columns["catalogue"] = ["category_count", "category_mean"]
    groups = {name: names for name, names in columns.items() if names and switched[name]}
    if not groups:
        raise SettingsError(
            "every group of features is switched off",
            where="features.groups",
            fix=f"switch one on: {', '.join(choices)}",
        )
    return groups
