"""The lab's companions: a secure sum is the plain one, a series has the digits that it claims."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import InputError, RunError
from tasks.parallel import secure_logistic, series
from tasks.parallel.comm import run_threads
from tasks.parallel.secure_sum import SCALE, Party, unmasked


def one_round(vectors: list[Any], dropped: set[int]) -> tuple[dict[int, Any], Any]:
    parties = [Party(i) for i in range(len(vectors))]
    keys = {party.number: party.public_key() for party in parties}
    there = [party for party in parties if party.number not in dropped]
    sent = {party.number: party.masked(vectors[party.number], keys) for party in there}
    return sent, unmasked(sent, {party.number: party.reveal(dropped) for party in there}, dropped)


@settings(max_examples=10)
@given(vectors=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=2, max_size=5), data=st.data())
def test_the_sum_of_those_who_stayed_is_exact(vectors: list[list[float]], data: st.DataObject) -> None:
    rows = [np.array(v) for v in vectors]
    dropped = data.draw(st.sets(st.integers(0, len(rows) - 1), max_size=len(rows) - 1))
    _, total = one_round(rows, dropped)
    expected = sum(np.rint(v * SCALE) for i, v in enumerate(rows) if i not in dropped) / SCALE
    np.testing.assert_array_equal(total, expected)


def test_what_the_server_receives_says_nothing_of_one_party() -> None:
    vectors = [np.full(4000, 7.0), np.full(4000, 7.0), np.full(4000, 7.0)]
    sent, _ = one_round(vectors, set())
    for words in sent.values():
        bits = np.unpackbits(words.view(np.uint8))
        assert abs(bits.mean() - 0.5) < 0.01  # 256,000 bits: five standard deviations
        assert len(set(words.tolist())) == 4000
    # Nor do two parties' masks cancel without the third.
    assert not np.any(sent[0] + sent[1] == np.uint64(14 * SCALE))


def test_a_round_is_not_repeated_and_what_cannot_be_summed_is_refused() -> None:
    party = Party(0)
    keys = {0: party.public_key()}
    with pytest.raises(InputError, match="NaN"):
        party.masked(np.array([float("nan")]), keys)
    with pytest.raises(InputError, match="not below"):
        party.masked(np.array([2.0**31]), keys)
    sent = party.masked(np.ones(1), keys)
    with pytest.raises(InputError, match="cannot be repeated"):
        party.masked(np.ones(1), keys)
    with pytest.raises(RunError, match="party 0 sent a masked vector and left"):
        unmasked({0: sent}, {}, set())


def test_logistic_regression_is_that_of_the_rows_in_one_place() -> None:
    rng = np.random.default_rng(5)
    rows = [(x := rng.standard_normal((30, 3)), (x @ [1.0, -2.0, 0.5] > 0).astype(float)) for _ in range(3)]
    options: dict[str, Any] = {"steps": 6, "rate": 0.5, "l2": 0.01}

    def plain(there: Any) -> Any:
        weights = np.zeros(3)
        for step in range(options["steps"]):
            total = sum(secure_logistic.contribution(*rows[i], weights) for i in there(step))
            weights = weights - options["rate"] * (total[:-1] / total[-1] + options["l2"] * weights)
        return weights

    np.testing.assert_allclose(secure_logistic.fit(rows, **options), plain(lambda step: range(3)), atol=1e-8)
    without = secure_logistic.fit(rows, **options, drops=lambda step, party: step == 2 and party == 1)
    np.testing.assert_allclose(without, plain(lambda step: [0, 2] if step == 2 else [0, 1, 2]), atol=1e-8)
    with pytest.raises(RunError, match="1 of 3 parties"):
        secure_logistic.fit(rows, **options, drops=lambda step, party: party > 0)


@settings(max_examples=25)
@given(world=st.integers(1, 9), x=st.fractions(-20, 20, max_denominator=50), digits=st.sampled_from([0, 5, 40, 300]))
def test_any_number_of_ranks_gives_the_digits(world: int, x: Fraction, digits: int) -> None:
    for name, wanted in (("exponential", exp), ("sine", sin)):
        found, *others = run_threads(series.evaluate, [(getattr(series, name)(x), digits)] * world)
        assert others == [None] * (world - 1)
        assert abs(found - wanted(x, digits)) <= 1


def exp(x: Fraction, digits: int) -> int:
    return _sum(lambda n: x**n / math.factorial(n), digits)


def sin(x: Fraction, digits: int) -> int:
    return _sum(lambda n: (-1) ** n * x ** (2 * n + 1) / math.factorial(2 * n + 1), digits)


def _sum(term: Any, digits: int) -> int:
    """Add exact terms until they are far below the last digit."""
    total, n = Fraction(0), 0
    while n < 30 or abs(term(n)) * 10 ** (digits + 3) > 1:
        total += term(n)
        n += 1
    return math.floor(total * 10**digits)


def test_terms_beyond_any_double_and_a_series_that_never_ends() -> None:
    (e,) = run_threads(series.evaluate, [(series.exponential(Fraction(1)), 1000)])
    assert str(e).startswith("271828182845904523536028747135266249775724709369995")
    assert len(str(e)) == 1001
    with pytest.raises(InputError, match="does not converge"):
        series.terms_for(series.Series(Fraction(1), lambda n: 1, lambda n: 1), 3)
