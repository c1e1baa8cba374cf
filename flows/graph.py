"""What runs, in which order, from what: the graph of `etl-train`. The flow runs it; `raymill plan` only walks it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from flows.run.forgotten_users import users_to_forget
from tasks.core.errors import InputError, SettingsError
from tasks.settings import Settings
from tasks.sources import Source, discover
from tasks.stages.text_model.stage import check_installed


@dataclass(frozen=True)
class Given:
    """What a run begins with: its raw files, and which optional stages are on."""

    source: Source
    metadata: Source | None
    packs: bool
    embeds: bool
    deep: bool
    predicts: bool


# What a command has found for the flow that it starts itself: the files are looked for, and hashed, once.
GIVEN: ContextVar[Given | None] = ContextVar("given", default=None)


def find_given(settings: Settings, until: str | None) -> Given:
    """Find the raw files that the settings name. Raises UserError for a wrong input, or a last stage that is off."""
    packs = _is_enabled("pack-tokens", settings.pack_tokens, until)
    embeds = _is_enabled("embeddings", settings.embeddings, until)
    if predicts := _is_enabled("next-token", settings.next_token, until):
        if not packs:
            raise SettingsError(
                "next-token reads packed tokens, and pack-tokens is switched off",
                where="next_token.enabled",
                fix="add --set pack_tokens.enabled=true",
            )
        check_installed("next_token")
    if deep := _is_enabled("text-model", settings.text_model, until):
        check_installed()
    source = discover(settings.data.input, settings.data.dataset, settings.ingest)
    source = replace(source, forgotten=users_to_forget(settings.storage))
    return Given(source, _metadata(settings, until), packs, embeds, deep, predicts)


def walk(given: Given, stages: Any, together: Callable[..., list[Any]], register: Callable[..., None]) -> Any:
    """Do the stages in their order; return the snapshots of report and evaluate.

    stages: `stages.clean(raw)` returns the snapshot of clean. together: does (stage, inputs...) side by side.
    """
    raw = stages.ingest(given.source)
    catalogue = stages.items(stages.ingest_items(given.metadata)) if given.metadata else None
    reviews = stages.clean(raw)
    described = stages.describe(reviews)
    alike = stages.near_duplicates(reviews)
    counts, tokens = together((stages.count_words, reviews), (stages.tokenize, reviews))
    if given.packs:
        packed = stages.pack_tokens(tokens)
        if given.predicts:
            stages.next_token(reviews, tokens, packed)
    language = stages.language_model(reviews, tokens)
    vectors = stages.embeddings(reviews, tokens) if given.embeds else None
    deep = stages.text_model(reviews, tokens) if given.deep else None
    table = stages.features(reviews, counts, tokens, language, vectors, catalogue, deep)
    splits = stages.split(table, alike)
    baseline, search = together((stages.train, splits), (stages.tune, splits))
    model = stages.refit(splits, search)
    scores, packed = together(
        (stages.evaluate, splits, reviews, baseline, model),
        (stages.package, reviews, counts, tokens, language, vectors, catalogue, table, model, deep),
    )
    proof, _ = together((stages.prove, raw, reviews, splits, scores, packed), (stages.reference, splits, scores))
    register(splits, model, scores, packed, proof)
    page = stages.report(raw, reviews, counts, described, splits, baseline, search, model, scores)
    return page, scores


def _metadata(settings: Settings, until: str | None) -> Source | None:
    """Find the files of product metadata; None if the settings name none."""
    if settings.data.items:
        return discover(settings.data.items, settings.data.dataset, settings.ingest_items, "items")
    if until in ("ingest-items", "items"):
        raise InputError(
            f"there is no stage {until} without product metadata", where="--until", fix="give --items PATH"
        )
    return None


def _is_enabled(stage: str, config: Any, until: str | None) -> bool:
    """Tell whether an optional stage is switched on. Raises SettingsError if it is off and the last one to run."""
    if until == stage and not config.enabled:
        section = stage.replace("-", "_")
        raise SettingsError(f"{stage} is switched off", where="--until", fix=f"add --set {section}.enabled=true")
    return bool(config.enabled)
