"""Sum a series to thousands of digits over ranks, exactly, by binary splitting.

Every term is the one before times p(n)/q(n), with whole numbers p and q. A range of terms is three whole numbers,

    P = product of p,   Q = product of q,   T = Q times the sum of the range's terms,

and two neighbouring ranges are one: P = P1 P2, Q = Q1 Q2, T = T1 Q2 + P1 T2 (Haible and Papanikolaou, Fast
multiprecision evaluation of series of rational numbers, 1998). Python's integers do not overflow, where a double ends
at 170! and an int64 at 20!. Each rank sums a range; neighbours combine in log2 W steps.

Cost: with W ranks and M(N) the time to multiply N digits, M(N) log^2(N)/W for the ranges, and about 2 M(N) for the last
products, which no second rank shares: Amdahl's serial share, and the messages grow to all N digits.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from tasks.core.errors import InputError
from tasks.parallel.comm import Array, Comm

Factor = Callable[[int], int]


class Series(NamedTuple):
    """first + first p(1)/q(1) + first p(1) p(2) / (q(1) q(2)) + ..."""

    first: Fraction
    p: Factor
    q: Factor


class Range(NamedTuple):
    p: int
    q: int
    t: int

    def followed_by(self, other: Range) -> Range:
        return Range(self.p * other.p, self.q * other.q, self.t * other.q + self.p * other.t)


def exponential(x: Fraction) -> Series:
    return Series(Fraction(1), lambda n: x.numerator, lambda n: n * x.denominator)


def sine(x: Fraction) -> Series:
    return Series(x, lambda n: -(x.numerator**2), lambda n: 2 * n * (2 * n + 1) * x.denominator**2)


def evaluate(comm: Comm, series: Series, digits: int) -> int | None:
    """Return the sum times 10^digits, rounded down, on rank 0, None on the others. The last digit may be one off.

    Raises InputError if the terms do not shrink below the last digit within 100 terms a digit.
    """
    terms = terms_for(series, digits)
    edges = [1 + terms * i // comm.world_size for i in range(comm.world_size + 1)]
    mine = summed(series, edges[comm.rank], edges[comm.rank + 1])
    step = 1
    while step < comm.world_size:
        if comm.rank % (2 * step):
            for number in mine:
                comm.send(comm.rank - step, to_bytes(number))
            return None
        if comm.rank + step < comm.world_size:
            mine = mine.followed_by(Range(*(from_bytes(comm.recv(comm.rank + step)) for _ in range(3))))
        step *= 2
    whole = series.first * 10**digits
    total: int = whole.numerator * (mine.q + mine.t) // (whole.denominator * mine.q)
    return total


def summed(series: Series, start: int, stop: int) -> Range:
    """Combine the terms start..stop-1, by halves, so that the factors of each product are of like length."""
    if stop <= start:
        return Range(1, 1, 0)
    if stop - start == 1:
        p, q = series.p(start), series.q(start)
        return Range(p, q, p)
    middle = (start + stop) // 2
    return summed(series, start, middle).followed_by(summed(series, middle, stop))


def terms_for(series: Series, digits: int) -> int:
    """Return how many terms there are until the next one is below the last digit, and less than half the one before."""
    bits = float(np.log2(float(abs(series.first)) or 1.0)) + digits * float(np.log2(10))
    for n in range(1, 100 * (digits + 10)):
        p, q = abs(series.p(n)), series.q(n)
        bits += p.bit_length() - q.bit_length() + 1  # an upper bound of log2(p / q)
        if bits < -2 and 2 * p < q:
            return n
        if p == 0:
            return n
    raise InputError("the series does not converge fast enough", where="series", fix="reduce x first")


def to_bytes(number: int) -> Array:
    return np.frombuffer(number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True), np.uint8)


def from_bytes(array: Array) -> int:
    return int.from_bytes(array.tobytes(), "little", signed=True)
