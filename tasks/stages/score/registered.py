"""A version of a registered model on this machine's disk, as an input of the stage `score`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

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
        if f"{registry.DIGEST}package" not in versions[version].tags:
            raise RegistryError(
                f"version {version} of {name} holds trees alone, which score no raw reviews",
                fix="raymill run registers a model that does; raymill models promote makes it champion",
            )
        place = folder / f"{name}-{version}-{versions[version].run_id}"
        if not place.exists():
            folder.mkdir(parents=True, exist_ok=True)
            # One that a kill leaves is named like the copy, so that whoever removes the version finds it.
            with TemporaryDirectory(dir=folder, prefix=f"{name}-{version}-", suffix=".draft") as draft:
                fetched = model_versions.fetch(uri, name, version, Path(draft))
                try:
                    fetched.rename(place)
                except OSError:
                    if not place.exists():  # another process was faster
                        raise
    return RegisteredModel.of(name, version, place)
