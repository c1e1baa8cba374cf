"""The gates before a model becomes champion: pure arithmetic on measured numbers.

A loss is the target's metric on the test slice, lower is better. Every gate gives a line: its name, the model's value,
the limit, and whether it passed. A gate that does not apply (no champion yet, no linear baseline) has no verdict and
blocks nothing; one that is switched off in conf (`registry.gates`) gives no line. NaN passes no gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf, isfinite, pi
from typing import Any

from scipy.special import stdtrit

from tasks.core.sections import GatesConfig
from tasks.stages.evaluate.scoring import Difference

Slices = Mapping[str, tuple[int, float]]  # name: (rows, loss)


@dataclass(frozen=True)
class Gate:
    """One line of the decision. `passed`: None where the gate does not apply. `note`: where the limit comes from."""

    name: str
    value: float | None
    limit: float | None
    passed: bool | None
    note: str = ""

    def __str__(self) -> str:
        verdict = {True: "passed", False: "not passed", None: "does not apply"}[self.passed]
        numbers = "" if self.value is None or self.limit is None else f"{self.value:.4g}, limit {self.limit:.4g}"
        return f"{self.name}: {', '.join(p for p in (numbers, self.note, verdict) if p)}"

    def as_json(self) -> dict[str, Any]:
        """Return JSON values: NaN and infinity become text."""
        values = asdict(self)
        for key in ("value", "limit"):
            if values[key] is not None and not isfinite(values[key]):
                values[key] = str(values[key])
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Gate:
        numbers = {key: float(values[key]) for key in ("value", "limit") if values[key] is not None}
        return cls(**{**values, **numbers})


@dataclass(frozen=True)
class Proof:
    """How the packaged model scores the test slice from its raw rows: how many, how many it was not given, the largest
    difference to the evaluation's predictions, and an order-independent digest of its own."""

    rows: int
    missing: int
    difference: float
    digest: str


@dataclass(frozen=True)
class Measured:
    """A model's measurements: losses of it and its rivals on the test slice, by slice, size and latency.

    mean, linear: losses of predict-the-mean and the linear baseline, or None. size_bytes: of all that scoring needs.
    latency_ms: median milliseconds of the packaged model by number of raw reviews predicted at once.
    """

    loss: float
    mean: float | None
    linear: float | None
    slices: Slices = field(default_factory=dict)
    size_bytes: int = 0
    latency_ms: Mapping[int, float] = field(default_factory=dict)
    proof: Proof | None = None


@dataclass(frozen=True)
class Champion:
    """The current champion on the same rows, or why it cannot be compared (`problem`).

    `version` is "" if there is none. `note` qualifies the comparison. `difference`: the model's loss less the
    champion's, row by row; `earlier`: how often the champion was compared before.
    """

    version: str = ""
    loss: float | None = None
    slices: Slices = field(default_factory=dict)
    problem: str = ""
    note: str = ""
    difference: Difference | None = None
    earlier: int = 0


def judge_gates(model: Measured, champion: Champion, config: GatesConfig) -> tuple[Gate, ...]:
    """Evaluate all gates that are switched on, in the order of conf."""
    return tuple(_gates(model, champion, config))


def all_passed(gates: Sequence[Gate]) -> bool:
    return not any(gate.passed is False for gate in gates)


def _gates(model: Measured, champion: Champion, config: GatesConfig) -> Iterator[Gate]:
    if config.max_loss is not None:
        yield _at_most("loss", model.loss, config.max_loss)
    yield from _gain(
        "gain over predict-the-mean", model.loss, model.mean, config.min_gain_over_mean, "no such baseline"
    )
    yield from _gain(
        "gain over the linear baseline", model.loss, model.linear, config.min_gain_over_linear, "no such baseline"
    )
    yield from _against_champion(model, champion, config)
    if config.max_slice_ratio is not None:
        yield _worst_ratio(model, config)
    if config.max_packaged_difference is not None and model.proof is not None:
        yield _packaged(model.proof, config.max_packaged_difference)
    if config.max_megabytes is not None:
        yield _at_most("size in MB", model.size_bytes / 1e6, config.max_megabytes)
    for rows, limit in ((1, config.max_ms_for_1_row), (1000, config.max_ms_for_1000_rows)):
        if limit is not None and rows in model.latency_ms:
            yield _at_most(f"milliseconds for {rows:,} row{'s' * (rows > 1)}", model.latency_ms[rows], limit)


def _packaged(proof: Proof, limit: float) -> Gate:
    """Require that the packaged model scores raw reviews as it was evaluated."""
    name = "difference of the packaged model"
    if not proof.rows:
        return Gate(name, None, limit, False, "no test review is from after its last models of the words")
    note = f"{proof.rows:,} test reviews from their raw rows, digest {proof.digest}"
    if proof.missing:
        return Gate(name, proof.difference, limit, False, f"{note}; {proof.missing:,} of them not found")
    return _at_most(name, proof.difference, limit, note)


def _at_most(name: str, value: float, limit: float, note: str = "") -> Gate:
    return Gate(name, value, limit, bool(value <= limit), note)


def _gain(
    name: str, loss: float, rival: float | None, margin: float | None, without: str, note: str = ""
) -> Iterator[Gate]:
    """Require a loss below the rival's less the margin: equal is not better."""
    if margin is None:
        return
    if rival is None:
        yield Gate(name, None, None, None, without)
        return
    limit = rival * (1 - margin)
    explanation = f"its loss {rival:.4g}" + (f" less {margin:.1%}" if margin else "") + (f"; {note}" if note else "")
    yield Gate(name, loss, limit, bool(loss < limit), explanation)


def _against_champion(model: Measured, champion: Champion, config: GatesConfig) -> Iterator[Gate]:
    on = (config.min_gain_over_champion, config.max_slice_regression, config.max_false_promotions, config.min_test_rows)
    if all(limit is None for limit in on):
        return
    if champion.problem:
        # A champion that cannot be compared stays: a person has to decide.
        yield Gate("comparison with the champion", None, None, False, champion.problem)
        return
    yield from _gain(
        f"gain over the champion, version {champion.version}" if champion.version else "gain over the champion",
        model.loss,
        champion.loss,
        config.min_gain_over_champion,
        without="there is none yet",
        note=champion.note,
    )
    if config.min_test_rows is not None and champion.version and champion.difference is not None:
        rows = champion.difference.rows
        yield Gate("test rows against the champion", rows, config.min_test_rows, rows >= config.min_test_rows)
    if config.max_false_promotions is not None and champion.version:
        yield _evidence(champion, config.max_false_promotions)
    if config.max_slice_regression is not None and champion.version:
        yield _worst_regression(model, champion, config.max_slice_regression, config.slice_rows)


def _evidence(champion: Champion, chance: float) -> Gate:
    """Test whether the model is better than the champion on the same rows, by a budget of errors over many nights.

    The value is the mean difference of the losses in standard errors. The n-th comparison of a champion may err with
    the probability 6 / (pi n)^2 times `chance`: over any number of comparisons these add up to `chance`, which bounds
    the probability of any error (Bonferroni's inequality).
    """
    name, number = "evidence against the champion", champion.earlier + 1
    if champion.difference is None:
        return Gate(name, None, None, None, "the losses were not compared row by row")
    share = chance * 6 / (pi * number) ** 2
    found = champion.difference
    limit = -float(stdtrit(max(found.rows - 1, 1), share))  # Student's t: the standard error is estimated
    errors = -found.mean / found.error if found.error > 0 else (inf if found.mean < 0 else 0.0)
    return Gate(name, errors, limit, bool(errors >= limit), f"standard errors; its comparison {number}")


def _worst_regression(model: Measured, champion: Champion, limit: float, min_rows: int) -> Gate:
    """Find the slice whose loss is the largest multiple of the champion's."""
    name = "slice against the champion"
    ratios = [
        (_ratio(loss, champion.slices[s][1]), s)
        for s, (rows, loss) in sorted(model.slices.items())
        if s in champion.slices and rows >= min_rows
    ]
    return _worst(name, ratios, 1 + limit, min_rows, "the champion's loss")


def _worst_ratio(model: Measured, config: GatesConfig) -> Gate:
    ratios = [(_ratio(loss, model.loss), s) for s, (rows, loss) in model.slices.items() if rows >= config.slice_rows]
    assert config.max_slice_ratio is not None
    return _worst("slice against all rows", ratios, config.max_slice_ratio, config.slice_rows, "the loss of all rows")


def _worst(name: str, ratios: list[tuple[float, str]], limit: float, min_rows: int, times: str) -> Gate:
    if not ratios:
        return Gate(name, None, None, None, f"no slice has {min_rows:,} rows")
    # NaN is worse than any number, but max() ignores it.
    worst, where = max(ratios, key=lambda r: (r[0] != r[0], r[0] if r[0] == r[0] else 0.0))
    return _at_most(name, worst, limit, f"times {times}, worst in {where!r}")


def _ratio(loss: float, rival: float) -> float:
    if rival == 0:
        return 1.0 if loss == 0 else float("inf")
    return loss / rival
