"""A version of a registered model on this machine's disk, as an input of the stage `score`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.digests import digest_of, file_sha256


@dataclass(frozen=True)
class RegisteredModel:
    """folder: its package (`tasks.stages.package`). The digest is over the files' contents, wherever they are kept."""

    name: str
    version: str
    folder: Path
    stage: str = "registered-model"
    hashes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, version: str, folder: Path) -> RegisteredModel:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return cls(name, version, folder, hashes={str(f.relative_to(folder)): file_sha256(f) for f in files})

    @property
    def key(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def digest(self) -> str:
        return digest_of([self.key, self.hashes])
