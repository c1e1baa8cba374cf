"""Secure aggregation: a server learns the sum of the parties' vectors, and of no party its own.

    1. keys     every party sends a public key; each pair derives a common seed from its keys (Diffie and Hellman)
    2. masked   party i sends  x_i + r(b_i) + sum of r(s_ij) over j > i - sum of r(s_ij) over j < i,  modulo 2^64
    3. unmask   every party still there sends its own seed b_i, and its seeds with those that dropped out after step 1

r makes a vector from a seed. The pairs' masks cancel in the sum; of b_i and the seeds of i with others the server is
told one or the other, never both, so a vector that arrives late is still hidden. Vectors are fixed-point numbers, whose
sums modulo 2^64 are exact, so nothing of the masks remains (Bonawitz and others, Practical secure aggregation for
privacy-preserving machine learning, 2017). Theirs also survives parties that drop out between steps 2 and 3, by sharing
secrets; here `RunError` ends such a round. Parties and server are honest but curious, and no two of them collude.

Cost with n parties, d numbers: a party computes n masks and sends d numbers, once; the plain sum costs the d numbers.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.core.errors import InputError, RunError

Numbers = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]

# The 2048-bit group of RFC 3526, section 3: 2^2048 - 2^1984 - 1 + 2^64 (floor(2^1918 pi) + 124476).
PRIME = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B"
    "302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE6"
    "49286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D"
    "670C354E4ABC9804F1746C08CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718"
    "3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)
GENERATOR = 2
SCALE = 2.0**32  # a unit of the fixed-point numbers is 2^-32, and their sum must be below 2^31


class Revealed(NamedTuple):
    """What a party tells in step 3: its own seed, and its seeds with those that dropped out."""

    own: bytes
    with_dropped: dict[int, bytes]


class Party:
    """One party's part in one round. No round may be repeated with the same object: it would reveal a difference."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._secret = secrets.randbits(256)
        self._own = secrets.token_bytes(32)
        self._seeds: dict[int, bytes] = {}
        self._sent = False

    def public_key(self) -> int:
        return pow(GENERATOR, self._secret, PRIME)

    def masked(self, vector: Numbers, public_keys: Mapping[int, int]) -> Words:
        """Return the vector, masked for the parties with these keys. Raises InputError for numbers out of range."""
        limit = 2.0**31 / max(1, len(public_keys))
        if self._sent or not np.all(np.abs(vector) < limit):
            what = "a round cannot be repeated" if self._sent else f"a number is not below {limit:g}, or NaN"
            raise InputError(
                what, where=f"secure aggregation, party {self.number}", fix="begin a round; scale the rows"
            )
        self._sent = True
        for other, key in public_keys.items():
            if other != self.number:
                common = pow(key, self._secret, PRIME)
                self._seeds[other] = hashlib.sha256(common.to_bytes(256, "big")).digest()
        total = np.rint(vector * SCALE).astype(np.int64).view(np.uint64) + mask(self._own, len(vector))
        for other, seed in self._seeds.items():
            total += _signed(self.number, other, mask(seed, len(vector)))
        return total

    def reveal(self, dropped: set[int]) -> Revealed:
        return Revealed(self._own, {other: self._seeds[other] for other in dropped})


def unmasked(vectors: Mapping[int, Words], revealed: Mapping[int, Revealed], dropped: set[int]) -> Numbers:
    """Return the sum of the vectors of the parties that sent one. Raises RunError if one of them revealed nothing."""
    if missing := sorted(vectors.keys() - revealed.keys()):
        raise RunError(
            f"party {missing[0]} sent a masked vector and left before its mask was known",
            where="secure aggregation",
            fix="begin the round again without it",
        )
    total: Words = np.sum(list(vectors.values()), axis=0, dtype=np.uint64)
    for number in vectors:
        total -= mask(revealed[number].own, len(total))
        for other in dropped:
            total -= _signed(number, other, mask(revealed[number].with_dropped[other], len(total)))
    return total.view(np.int64) / SCALE


def mask(seed: bytes, length: int) -> Words:
    """Return numbers that only the seed tells from random ones."""
    return np.frombuffer(hashlib.shake_256(seed).digest(8 * length), np.uint64)


def _signed(mine: int, other: int, numbers: Words) -> Words:
    """Each pair's mask is added by one and subtracted by the other."""
    return numbers if mine < other else np.negative(numbers)
