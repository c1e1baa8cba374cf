"""A version of a registered model on this machine's disk, as an input of the stage `score`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.digests import digest_of, file_sha256
from tasks.core.errors import RegistryError
from tasks.engines import model_versions, registry, tracking


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


def fetch(uri: str, name: str, wanted: str, folder: Path) -> RegisteredModel:
    """Copy a version's package from the MLflow at `uri` below `folder`, unless it is there. wanted: a number or alias.

    Raises RegistryError if there is no such version.
    """
    with tracking.reaching(uri):
        client = tracking.connect(uri)
        versions = {str(v.version): v for v in registry.existing(client, name)}
        aliases = registry.aliases(client, name)
        version = wanted if wanted in versions else aliases.get(wanted)
        if version is None:
            given = ", ".join([*aliases, *versions])
            raise RegistryError(f"{name} has no version {wanted}", where="--model", fix=f"there are {given}")
        place = folder / f"{name}-{version}-{versions[version].run_id}"
        if not place.exists():
            draft = place.with_name(f"{place.name}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            model_versions.fetch(uri, name, version, draft).rename(place)
            shutil.rmtree(draft)
    return RegisteredModel.of(name, version, place)
