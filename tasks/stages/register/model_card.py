"""Write the model card: what a registered model is, how good it is, for whom, and what it must not be used for.

It is plain markdown (headings, tables, lists, paragraphs), so that MLflow's page, the report and any other renderer
show the same. Text from the data (categories, file names) is escaped: it cannot become markup.

After Mitchell and others, "Model Cards for Model Reporting" (2019).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from tasks.core.snapshots import Snapshot
from tasks.domain.targets import TARGETS, Target
from tasks.stages.register.candidate import Candidate
from tasks.stages.register.gates import Champion, Gate, Measured

LONGEST = 80  # characters of a value from the data
MODELS = {
    "mean": "predict-the-mean",
    "linear": "linear baseline",
    "baseline": "untuned",
    "tuned": "**this model**",
}
SPLITS = {"train": "train", "valid": "validation", "test": "test"}


class Verdict(Protocol):
    """The fields of a decision that a card needs."""

    @property
    def version(self) -> str: ...

    @property
    def promoted(self) -> bool: ...

    @property
    def reason(self) -> str: ...

    @property
    def gates(self) -> tuple[Gate, ...]: ...


def render(decision: Verdict, name: str, candidate: Candidate, measured: Measured, rival: Champion) -> str:
    """Write the card of a version of the registered model `name`, compared with `rival`."""
    model, splits, scores = candidate.model, candidate.splits, candidate.scores
    facts = scores.facts
    target = TARGETS[facts["target"]]
    head = {
        "predicts": f"{target.says} (target {target.name}, between {target.low:g} and {target.high:g})",
        "kind": f"XGBoost trees: {model.facts['rounds']} rounds, {len(model.facts['features'])} features",
        "size": f"{measured.size_bytes / 1e6:.2f} MB",
        "latency": ", ".join(
            f"{ms:.2f} ms for {rows:,} row{'s' * (rows > 1)}" for rows, ms in measured.latency_ms.items()
        )
        + " (median, warm, one thread, on the machine that registered it)",
        **candidate.about,
    }
    parts = [
        f"# {escape(name)}, version {escape(decision.version)}",
        f"**{'Champion' if decision.promoted else 'Challenger'}**: {escape(decision.reason, longest=1000)}",
        _list(f"{key}: {escape(value, longest=300)}" for key, value in head.items() if value),
        "## How good it is",
        _measures(facts["measures"], rival, target),
        f"On the {facts['rows']:,} reviews of the test slice, from which nothing was learned or chosen. In brackets: "
        "95% intervals of a bootstrap over these reviews; they do not tell how another period would differ.",
        "## Limits",
        _list(_limits(splits, target)),
        "## Gates",
        _gates(decision.gates),
        "## Where it is good and where not",
        _slices(scores),
        "## Data",
        _data(candidate),
        "## How it was made",
        _recipe(model, splits),
    ]
    return "\n\n".join(parts) + "\n"


def escape(value: Any, longest: int = LONGEST) -> str:
    """Escape text for one line or table cell: no markup, no line breaks, no control characters, not too long."""
    text = " ".join(str(value).split())
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf"))
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", text)


def shortened(card: str, longest: int, whole: str) -> str:
    """Cut the card to the first lines that fit, and add where the whole one is."""
    if len(card) <= longest:
        return card
    end = f"\n\n… the whole card: the artifact {whole} of this version's run\n"
    return card[: card.rfind("\n", 0, longest - len(end))] + end


def _measures(measures: Mapping[str, Mapping[str, Mapping[str, float]]], rival: Champion, target: Target) -> str:
    names = [name for name in target.measures if name in measures["tuned"]]  # a manifest keeps no order
    rows = [
        [words, *(_interval(measures[model].get(n)) for n in names)]
        for model, words in MODELS.items()
        if model in measures
    ]
    if rival.loss is not None:
        cells = [f"{rival.loss:.4f}" if n == target.metric else "–" for n in names]
        rows.append([f"champion before it, version {escape(rival.version)}", *cells])
    return _table(["model", *names], rows)


def _interval(measure: Mapping[str, Any] | None) -> str:
    if measure is None or measure.get("value") is None:
        return "–"
    value, low, high = (measure.get(k) for k in ("value", "low", "high"))
    return f"{value:.4f}" + (f" ({low:.4f}–{high:.4f})" if low is not None and high is not None else "")


def _limits(splits: Snapshot, target: Target) -> Iterable[str]:
    borders = splits.facts.get("borders") or {}
    until = str(borders.get("valid_until", ""))[:10]
    yield "It says what stars or votes such reviews tend to get. It must not decide about people, or about one review."
    yield "It knows users and items by their earlier reviews; of new ones it knows little (see the slices)."
    if until:
        yield f"It learned from reviews until {until} and was tested on later ones: the later still, the less it holds."
    if target.caveat:
        yield target.caveat
    groups = splits.facts.get("groups") or {}
    if {"price", "sales_rank", "also_viewed_price"}.intersection(groups.get("catalogue", ())):
        yield (
            "Prices and sales ranks are those of the day when the product metadata was collected, after most of the "
            "reviews: in training and test it knew them before anybody (features.groups.catalogue=false: without)."
        )
    if "text" in groups:
        yield "Its text features know the words of this data's language and products; others are noise to it."
    if rows := splits.rows("left_out"):
        yield f"{rows:,} reviews were left out of the splits{_reasons(splits)}. The scores say nothing of such ones."
    near = splits.facts.get("near_duplicates") or {}
    if isinstance(near, Mapping) and (again := near.get("test")):
        yield f"{again:,} test reviews nearly repeat a text of an earlier slice and are easier than new ones."


def _reasons(splits: Snapshot) -> str:
    left_out = splits.facts.get("left_out")
    if not isinstance(left_out, Mapping) or not all(isinstance(rows, int) for rows in left_out.values()):
        return ""
    return f" ({', '.join(f'{escape(reason)}: {rows:,}' for reason, rows in sorted(left_out.items()) if rows)})"


def _gates(gates: Sequence[Gate]) -> str:
    if not gates:
        return "All are switched off."
    verdicts = {True: "passed", False: "**not passed**", None: "does not apply"}
    rows = [
        [escape(g.name), _number(g.value), _number(g.limit), escape(g.note, longest=300), verdicts[g.passed]]
        for g in gates
    ]
    return _table(["gate", "value", "limit", "which is", "verdict"], rows)


def _slices(scores: Snapshot) -> str:
    slices = scores.read("slices").to_pylist()
    models = [m for m in MODELS if any(row.get(f"loss_{m}") is not None for row in slices)]
    rows = [
        [
            escape(row["slice"]),
            f"{row['rows']:,}",
            *(_number(row.get(f"loss_{m}")) for m in models),
            "**much worse**" if row.get("warning") else "",
        ]
        for row in slices
    ]
    return _table(["slice", "rows", *(MODELS[m] for m in models), ""], rows) + f"\n\nIn each: {scores.facts['metric']}."


def _data(candidate: Candidate) -> str:
    splits, model = candidate.splits, candidate.model
    rows = splits.facts.get("rows") or {}
    sizes = [f"{words}: {rows.get(name, splits.rows(name)):,} reviews" for name, words in SPLITS.items()]
    borders = [f"{escape(k.replace('_', ' '))}: {escape(v)}" for k, v in (splits.facts.get("borders") or {}).items()]
    snapshots = {**candidate.snapshots, "split": splits, model.stage: model, "evaluate": candidate.scores}
    digests = [[escape(stage), f"`{snapshot.digest}`"] for stage, snapshot in snapshots.items()]
    return _list([*sizes, *borders]) + "\n\n" + _table(["made by", "sha256 of its content"], digests)


def _recipe(model: Snapshot, splits: Snapshot) -> str:
    params = [[escape(k), escape(v)] for k, v in sorted(model.facts["params"].items())]
    groups = splits.facts.get("groups") or {"features": model.facts["features"]}
    features = [f"{escape(group)}: {', '.join(escape(n) for n in names)}" for group, names in groups.items()]
    return _table(["parameter", "value"], [["rounds", str(model.facts["rounds"])], *params]) + "\n\n" + _list(features)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
