"""Check parameters for XGBoost before training: they may be set, it knows them, and it takes their values."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.core.errors import SettingsError
from tasks.domain import constraints
from tasks.domain.search_space import ALIASES
from tasks.domain.targets import Target

# The target, the worker or another setting decides these.
RESERVED = (
    "objective", "eval_metric", "num_class", "nthread", "device", "seed", "seed_per_iteration", "tree_method",
    "booster", "updater", "process_type",
)  # fmt: skip


def check_params(params: Mapping[str, Any], target: Target, where: str, features: Sequence[str] = ("x",)) -> None:
    """Raise SettingsError for a parameter that XGBoost does not use, or a value that it refuses.

    XGBoost only warns about an unused parameter, so a misspelt one would go unnoticed. features: names that constraints
    may use.
    """
    import xgboost as xgb

    if reserved := sorted(set(params) & set(RESERVED)):
        fix = "see features.target and the other settings of train"
        raise SettingsError(f"{reserved[0]} is not a parameter to set here", where=where, fix=fix)
    if aliases := sorted(set(params) & set(ALIASES)):
        raise SettingsError(f"{aliases[0]} has another name here", where=where, fix=f"call it {ALIASES[aliases[0]]}")
    x, y = np.repeat(np.arange(2, dtype=np.float32)[:, None], len(features), axis=1), np.arange(2, dtype=np.float32)
    own = constraints.positional(params, features, where)
    settled = {"tree_method": "hist", "nthread": 1, **own, **target.params, "validate_parameters": True}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            xgb.train(settled, xgb.QuantileDMatrix(x, y, nthread=1, max_bin=params.get("max_bin")), 1)
    except (xgb.core.XGBoostError, ValueError, TypeError) as error:
        # XGBoost's message begins with the time and a source line, and ends with a stack trace.
        reason = " ".join(re.sub(r"^\[[\d:]+\] \S+: ", "", str(error)).partition("Stack trace")[0].split())
        raise SettingsError(f"XGBoost refuses {dict(params)}: {reason}", where=where, fix="change the value") from None
    for line in (str(w.message) for w in caught):
        if match := re.search(r"Parameters: \{(.*?)\} are not used", line, re.DOTALL):
            names = match.group(1).replace('"', "").strip()
            what = f"XGBoost does not use {names} for the target {target.name}"
            raise SettingsError(what, where=where, fix="check the spelling")
