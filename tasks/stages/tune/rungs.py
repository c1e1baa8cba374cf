"""The rungs of a search: after how many rounds its trials report, and may be stopped.

A trial reports at rungs alone: a report is a round trip to the driver, and nobody could act on another.
"""

from __future__ import annotations

from tasks.stages.tune.settings import TuneConfig

ASHA_FACTOR, FORECAST_FACTOR = 3, 2  # ratio of a rung to the one before; ASHA continues one trial in ASHA_FACTOR


def milestones(config: TuneConfig) -> tuple[int, ...]:
    """Return the rounds after which a trial may be stopped, and last the maximum."""
    if config.stopping == "patience":
        return (config.max_rounds,)
    return rungs(config, ASHA_FACTOR if config.stopping == "asha" else FORECAST_FACTOR)


def rungs(config: TuneConfig, factor: int) -> tuple[int, ...]:
    rung, lower = config.min_rounds, []
    while rung < config.max_rounds:
        lower.append(rung)
        rung *= factor
    return (*lower, config.max_rounds)
