"""The users to forget (`raymill forget`): no row of theirs becomes a canonical row or a reject.

The list is storage.root/forgotten.json. It holds no names: each is hashed with a salt of the list's own (BLAKE2b with
a key, RFC 7693). Whoever has both the list and a user's name can tell that the user is on it, and short names can be
guessed: it is a pseudonym, no secret.

A part of the raw input that was read while it held such a user gets another identity, so that its earlier output is
not taken over; all other parts keep theirs.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from tasks.core.digests import digest_of
from tasks.core.errors import InputError
from tasks.core.whole_files import write_whole

FILE = "forgotten.json"
HASH_BYTES = 16


@dataclass(frozen=True)
class Forgotten:
    """salt: hex. users: their hashes. parts: identities of the parts that were read while they held one of them."""

    salt: str = ""
    users: frozenset[str] = frozenset()
    parts: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        return digest_of([self.salt, sorted(self.users)])

    def hash_of(self, user: str) -> str:
        """Return a user's hash, 128 bits as hex; user: as in the canonical column `user_id`."""
        return blake2b(user.encode(), key=bytes.fromhex(self.salt), digest_size=HASH_BYTES).hexdigest()

    def among(self, users: Iterable[str]) -> set[str]:
        """Return those of these users who are on the list."""
        return {user for user in users if self.hash_of(user) in self.users} if self.users else set()

    def renamed(self, identity: str) -> str:
        """Return a part's identity; another one for a part that was read while it held a user of the list."""
        while identity in self.parts:
            identity = digest_of([identity, "forgotten"])
        return identity

    def with_users(self, users: Collection[str], parts: Collection[str]) -> Forgotten:
        """Return the list with these users (names), and the parts that hold them by now."""
        known = self if self.salt else replace(self, salt=secrets.token_hex(16))
        hashes = known.users | {known.hash_of(user) for user in users}
        return replace(known, users=hashes, parts=known.parts | set(parts))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = {"salt": self.salt, "users": sorted(self.users), "parts": sorted(self.parts)}
        write_whole(path, json.dumps(stored, indent=1), synced=True)


def load(path: Path) -> Forgotten | None:
    """Read the list; None if there is none. Raises InputError if it is damaged: nobody may come back for that."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        found = Forgotten(str(stored["salt"]), frozenset(stored["users"]), frozenset(stored["parts"]))
        bytes.fromhex(found.salt)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the list of users to forget cannot be read: {error}",
            where=str(path),
            fix="restore it from a backup, or remove it and call raymill forget with all users again",
        ) from None
    return found if found.users else None
