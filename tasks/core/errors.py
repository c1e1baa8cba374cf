"""Every error shown to users.

    RaymillError
    ├── UserError               a user's mistake: exit status 2
    │   ├── SettingsError       an unknown key, a value of the wrong type
    │   ├── ProfileError        an unknown or malformed dataset profile
    │   └── InputError          the input cannot be read or used
    └── RunError                a run that failed: exit status 1
        ├── ValidationFailed    the output of a stage breaks its expectations
        ├── TooManyRejects      more unusable rows than the settings allow
        ├── RowsLost            rows in != rows out + rejects + duplicates
        ├── SnapshotCorrupt     a committed file is gone or has changed
        ├── RegistryError       the model registry cannot serve a request
        │   └── RegistryDown    it does not answer, or not as it should
        ├── ChunkFailed         a chunk of rows that no worker could score
        ├── RanksDisagree       ranks of a group called a collective with different arguments
        └── TransientError      a fault that a retry may cure (a lost worker, a full queue)
            └── RankLost        a rank of a group died, or did not answer in time

A message says what happened, where (file, row, column, stage), and what to do. Secrets in it are masked, as the place
is often a URL.
"""

from __future__ import annotations

from tasks.core.secrets import masked


class RaymillError(Exception):
    """Base class of every error raised on purpose. `exit_status` is the process's."""

    exit_status = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = masked(what), masked(where), fix
        super().__init__(self.what, self.where, fix)

    def __str__(self) -> str:
        message = f"{self.where}: {self.what}" if self.where else self.what
        return f"{message}\n  → {self.fix}" if self.fix else message

    def __reduce__(self) -> tuple[object, ...]:
        # Ray pickles errors between processes; keyword arguments must survive that.
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def _rebuild(cls: type[RaymillError], what: str, where: str, fix: str) -> RaymillError:
    return cls(what, where=where, fix=fix)


class UserError(RaymillError):
    exit_status = 2


class SettingsError(UserError):
    pass


class ProfileError(UserError):
    pass


class InputError(UserError):
    pass


class RunError(RaymillError):
    pass


class ValidationFailed(RunError):
    pass


class TooManyRejects(RunError):
    pass


class RowsLost(RunError):
    pass


class SnapshotCorrupt(RunError):
    pass


class RegistryError(RunError):
    pass


class RegistryDown(RegistryError):
    pass


class ChunkFailed(RunError):
    pass


class RanksDisagree(RunError):
    pass


class TransientError(RunError):
    pass


class RankLost(TransientError):
    pass
