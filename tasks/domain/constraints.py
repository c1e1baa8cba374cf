"""XGBoost's constraints by feature name: `monotone_constraints` and `interaction_constraints`.

In settings a monotone constraint is {feature: 1 or -1}, or XGBoost's text "(1,0,-1)" by position; an interaction
constraint is a list of lists of features that may meet in a branch, or XGBoost's text "[[0,1],[2,3]]" by position.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from tasks.core.errors import SettingsError

MONOTONE, INTERACTION = "monotone_constraints", "interaction_constraints"


def named(params: Mapping[str, Any], features: Sequence[str], where: str) -> dict[str, Any]:
    """Return the parameters with constraints by name: {feature: ±1} and lists of features. Raises SettingsError."""
    result = dict(params)
    if (signs := params.get(MONOTONE)) is not None:
        result[MONOTONE] = _signs(signs, features, f"{where}.{MONOTONE}")
    if (groups := params.get(INTERACTION)) is not None:
        result[INTERACTION] = _groups(groups, features, f"{where}.{INTERACTION}")
    return result


def positional(params: Mapping[str, Any], features: Sequence[str], where: str) -> dict[str, Any]:
    """Return the parameters as XGBoost takes them for these features. Raises SettingsError for an unknown feature."""
    result = named(params, features, where)
    if MONOTONE in result and result[MONOTONE] is not None:
        result[MONOTONE] = f"({','.join(str(result[MONOTONE].get(name, 0)) for name in features)})"
    if INTERACTION in result and result[INTERACTION] is not None:
        result[INTERACTION] = json.dumps([[features.index(name) for name in group] for group in result[INTERACTION]])
    return result


def restricted(params: Mapping[str, Any], features: Sequence[str], kept: Sequence[str], where: str) -> dict[str, Any]:
    """Return the parameters for a model of fewer features: what constrains the others is left out."""
    result = named(params, features, where)
    if result.get(MONOTONE) is not None:
        result[MONOTONE] = {name: sign for name, sign in result[MONOTONE].items() if name in kept}
    if result.get(INTERACTION) is not None:
        groups = [[name for name in group if name in kept] for group in result[INTERACTION]]
        result[INTERACTION] = [group for group in groups if group]
    return positional(result, kept, where)


def _signs(value: Any, features: Sequence[str], where: str) -> dict[str, int]:
    if isinstance(value, str):
        numbers = re.fullmatch(r"[(\[]?\s*(-?[01](?:\s*,\s*-?[01])*)\s*,?\s*[)\]]?", value.strip())
        value = [int(n) for n in numbers[1].split(",")] if numbers else value
    if isinstance(value, (list, tuple)):
        if len(value) > len(features):
            raise SettingsError(
                f"{len(value)} constraints for {len(features)} features", where=where, fix="name the features instead"
            )
        value = {name: sign for name, sign in zip(features, value, strict=False) if sign != 0}
    if not isinstance(value, Mapping) or not all(sign in (-1, 0, 1) for sign in value.values()):
        raise SettingsError(
            f"expected {{feature: 1 or -1}}, got {value!r}", where=where, fix="for example {text_score: 1}"
        )
    _known(list(value), features, where)
    return {name: int(sign) for name, sign in value.items()}


def _groups(value: Any, features: Sequence[str], where: str) -> list[list[str]]:
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, (list, tuple)) or not all(isinstance(group, (list, tuple)) and group for group in value):
        raise SettingsError(
            f"expected lists of features, got {value!r}", where=where, fix="for example [[text_score, n_tokens]]"
        )
    groups = [[features[i] if isinstance(i, int) and 0 <= i < len(features) else i for i in group] for group in value]
    _known([name for group in groups for name in group], features, where)
    return groups


def _known(names: Sequence[Any], features: Sequence[str], where: str) -> None:
    for name in names:
        if name not in features:
            near = get_close_matches(str(name), features, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(features)}"
            raise SettingsError(f"no feature {name!r}", where=where, fix=hint)
