"""What settings of the gates would have promoted, from the nights' recorded scores: pure arithmetic.

Each night's model meets the champion of that setting on the same test rows, by the gates of `register` themselves
(`tasks.stages.register.gates`). Gates about a package (its size, its speed, its proof) have no say: a rehearsal packs
no model. What arrives in a night is charged to the champion of the night before.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.core.sections import GatesConfig
from tasks.domain.losses import overall
from tasks.stages.evaluate.scoring import Difference
from tasks.stages.register.gates import Champion, Measured, Slices, all_passed, judge_gates

EVERY, FIRST = "every_model", "first_model"  # for comparison: each night's model promoted, and none but the first
ALL = "all"  # months together
UNPACKED = ("max_packaged_difference", "max_megabytes", "max_ms_for_1_row", "max_ms_for_1000_rows")


@dataclass(frozen=True)
class Night:
    """A night's scores. arrived: reviews since the night before, of all `reviews`. model: its digest.

    losses, differences, slices: on tonight's test rows, by the night whose model it is; a difference is tonight's loss
    less the other's. months: of what arrived since the night before, {month: (rows, {night: sum of losses})}.
    """

    number: int
    until: str
    arrived: int
    reviews: int
    model: str
    metric: str
    target: str
    rows: int
    mean: float
    linear: float | None
    losses: Mapping[int, float]
    differences: Mapping[int, Difference]
    slices: Mapping[int, Slices]
    months: Mapping[str, tuple[int, Mapping[int, float]]]


@dataclass(frozen=True)
class Decision:
    """What a setting of the gates decided in a night. before, champion: nights whose models were and are champion.

    failed: names of gates. None was asked where the night made no new model.
    """

    night: int
    before: int | None
    promoted: bool
    champion: int | None
    failed: tuple[str, ...] = ()


def decisions(nights: Sequence[Night], gates: GatesConfig) -> list[Decision]:
    """Let these gates decide night after night, as `register` would."""
    gates = gates.model_copy(update=dict.fromkeys(UNPACKED))
    champion: int | None = None
    compared: Counter[int] = Counter()  # decisions against each champion
    known: set[str] = set()
    made = []
    for night in nights:
        if night.model in known:
            made.append(Decision(night.number, champion, False, champion))
            continue
        known.add(night.model)
        found = judge_gates(_measured(night), _champion(night, champion, compared), gates)
        promoted = all_passed(found)
        if champion is not None:
            compared[champion] += 1
        failed = tuple(gate.name for gate in found if gate.passed is False)
        made.append(Decision(night.number, champion, promoted, night.number if promoted else champion, failed))
        champion = made[-1].champion
    return made


def _measured(night: Night) -> Measured:
    return Measured(night.losses[night.number], night.mean, night.linear, night.slices[night.number])


def _champion(night: Night, champion: int | None, compared: Counter[int]) -> Champion:
    if champion is None:
        return Champion()
    return Champion(
        str(champion),
        night.losses[champion],
        night.slices[champion],
        difference=night.differences[champion],
        earlier=compared[champion],
    )


def every_model(nights: Sequence[Night]) -> list[Decision]:
    """Promote each night's model, without a question."""
    return [Decision(n.number, n.number - 1 if n.number else None, True, n.number) for n in nights]


def first_model(nights: Sequence[Night]) -> list[Decision]:
    """Promote the first model, and no other."""
    return [Decision(n.number, 0 if n.number else None, not n.number, 0) for n in nights]


@dataclass(frozen=True)
class Month:
    """The loss that the champions had on the reviews of a month, in the target's metric. champions: by their nights."""

    month: str
    rows: int
    loss: float
    champions: tuple[int, ...]


def months(nights: Sequence[Night], decided: Sequence[Decision]) -> list[Month]:
    """Charge what arrived in each night to the champion before it; reviews that came before any champion are left out.

    The last line, `all`, is of all months.
    """
    rows: Counter[str] = Counter()
    sums: dict[str, float] = defaultdict(float)
    serving: dict[str, list[int]] = {}
    for night, decision in zip(nights, decided, strict=True):
        if decision.before is None:
            continue
        for month, (n, by_night) in night.months.items():
            for name in (month, ALL):
                rows[name] += n
                sums[name] += by_night[decision.before]
                if decision.before not in serving.setdefault(name, []):
                    serving[name].append(decision.before)
    metric = nights[0].metric
    return [
        Month(name, rows[name], overall(metric, sums[name] / rows[name]), tuple(serving[name]))
        for name in sorted(rows, key=lambda name: (name == ALL, name))
    ]
