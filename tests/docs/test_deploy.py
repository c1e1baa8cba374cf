"""The manifests in deploy/ fit their schemas, give no secret away, and name only what is there."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import typer
import yaml

from flows.cli.main import app
from tasks.core.settings import PROJECT
from tasks.engines.cluster import WORKER_ENV
from tasks.engines.quiet import QUIET
from tasks.settings import load_settings

DEPLOY = PROJECT / "deploy"
KUBERNETES = "1.32"  # the oldest version that the manifests are checked against
ASKED = re.compile(r"\$\{(\w+):\?[^}]+\}")
DEFAULTED = re.compile(r"\$\{(\w+):-([^}]*)\}")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH_STRING|ACCESS_KEY")

COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
KUBERAY = {path.stem: yaml.safe_load(path.read_text()) for path in (DEPLOY / "kuberay").glob("*.yaml")}
CLUSTER, JOB, SETTINGS = (KUBERAY[name] for name in ("raycluster", "rayjob", "settings"))
GCP = yaml.safe_load((DEPLOY / "gcp" / "cluster.yaml").read_text())
GCP_EXPORTS = re.findall(r"^(?:# )?export (\w+)=(\S+)", (DEPLOY / "gcp" / "environment.sh").read_text(), flags=re.M)
PINS = dict(line.split("==") for line in (PROJECT / "constraints.txt").read_text().split() if not line.startswith("#"))


def pods() -> dict[str, dict[str, Any]]:
    """Every pod template, by where it stands."""
    found = {"submitter": JOB["spec"]["submitterPodTemplate"]}
    for owner, spec in (("cluster", CLUSTER["spec"]), ("job", JOB["spec"]["rayClusterSpec"])):
        found[f"{owner} head"] = spec["headGroupSpec"]["template"]
        found |= {f"{owner} {group['groupName']}": group["template"] for group in spec["workerGroupSpecs"]}
    return found


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for where, pod in pods().items():
        for container in pod["spec"]["containers"]:
            yield f"{where} {container['name']}", container


def environments() -> dict[str, dict[str, str]]:
    """The variables that each process starts with; the value of one that comes from a Kubernetes Secret is ""."""
    found = {name: {k: str(v) for k, v in service.get("environment", {}).items()} for name, service in SERVICES.items()}
    for where, container in containers():
        sources = [source["configMapRef"]["name"] for source in container.get("envFrom", [])]
        assert set(sources) <= {SETTINGS["metadata"]["name"]}
        found[where] = {**(SETTINGS["data"] if sources else {}), **{e["name"]: "" for e in container.get("env", [])}}
    return found | {"gcp": dict(GCP_EXPORTS)}


def pinned(file: Path) -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    return dict(re.fullmatch(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)", line).groups() for line in lines if line)  # type: ignore[union-attr, misc]


def test_compose_fits_the_compose_specification() -> None:
    schema = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(COMPOSE, json.loads(schema.read_text()))


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_ray_resources_fit_what_kuberay_defines(name: str) -> None:
    jsonschema.validate(
        KUBERAY[name], yaml.safe_load((Path(__file__).parent / "schemas/ray-resources.yaml").read_text())
    )


@pytest.mark.parametrize("where", pods())
def test_pods_fit_kubernetes_schema(where: str) -> None:
    wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": pods()[where]}
    kubernetes_validate.validate(wrapped, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["settings", "storage"])
def test_plain_kubernetes_resources_fit_their_schema(name: str) -> None:
    kubernetes_validate.validate(KUBERAY[name], KUBERNETES, strict=True)
    assert f"{name}.yaml" in KUBERAY["kustomization"]["resources"]


def test_the_autoscaler_takes_its_file() -> None:
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(GCP, json.loads(schema.read_text()))
    validate_config(fillout_defaults(GCP))
    assert GCP["head_node_type"] in GCP["available_node_types"]
    local = [source for source in GCP["file_mounts"].values() if not source.startswith("~")]
    assert [source for source in local if not (PROJECT / source).exists()] == []
    assert {"flows", "tasks", "conf"} <= set(local)
    assert not {"data", "mlruns", ".", ".venv"} & set(local)
    assert {"/data/", "/mlruns/", ".env"} <= set(GCP["rsync_exclude"])


def test_ports_are_published_on_the_loopback_interface_alone() -> None:
    ports = [str(port) for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert not [name for name, service in SERVICES.items() if "network_mode" in service]
    assert "--dashboard-host=127.0.0.1" in "".join(GCP["head_start_ray_commands"])
    assert CLUSTER["spec"]["headGroupSpec"].get("serviceType", "ClusterIP") == "ClusterIP"


def test_no_file_holds_a_secret() -> None:
    for where, variables in environments().items():
        for name, value in variables.items():
            if SECRET.search(name):
                assert value == "" or ASKED.fullmatch(value), f"{where}: {name}"
            for password in re.findall(r"://[^/:@\s]*:([^@\s]+)@", value):
                assert ASKED.fullmatch(password), f"{where}: {name}"
    lines = (DEPLOY / "compose" / "env.example").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#") and line[-1] not in "=:"] == []


def test_what_compose_asks_for_is_what_the_example_lists() -> None:
    example = (DEPLOY / "compose" / "env.example").read_text()
    text = (DEPLOY / "compose" / "compose.yaml").read_text()
    assert {n for n, _ in re.findall(r"^(\w+)=(.*)$", example, flags=re.M)} == set(ASKED.findall(text))
    assert set(re.findall(r"^# (\w+)=\S", example, flags=re.M)) == {name for name, _ in DEFAULTED.findall(text)}


def test_images_and_versions_are_pinned_and_agree() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    images = [s["image"] for s in SERVICES.values()] + [c["image"] for _, c in containers()]
    for image in images:
        name, _, tag = image.rpartition(":")
        assert tag == project["version"] if name.endswith("raymill") else re.match(r"\d+\.\d+", tag), image
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    (base,) = re.findall(r"^FROM python:(\d+\.\d+)\.\d+-slim-\w+$", dockerfile, flags=re.M)
    assert base == "3.11"
    assert project["requires-python"] == ">=3.11,<3.13"
    for file in (DEPLOY / "requirements.txt", DEPLOY / "gcp" / "requirements.txt"):
        assert {n: v for n, v in pinned(file).items() if PINS.get(n, v) != v} == {}
    assert {s["rayVersion"] for s in (CLUSTER["spec"], JOB["spec"]["rayClusterSpec"])} == {PINS["ray"]}
    assert pinned(DEPLOY / "requirements.txt")["ray"] == PINS["ray"]


def test_all_that_ray_needs_on_a_cluster_is_pinned() -> None:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    wanted = {plain(re.split(r"[ <>=!;\[]", r)[0]) for r in metadata.requires("ray") or [] if 'extra == "default"' in r}
    assert wanted - {plain(name) for name in (*PINS, *pinned(DEPLOY / "requirements.txt"))} == set()


def test_the_image_runs_as_an_ordinary_user_and_takes_no_data_along() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"^USER (\d+):\d+$", dockerfile, flags=re.M)[-1] == "1000"
    assert "--constraint constraints.txt" in dockerfile
    first, *kept = [s for s in (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n") if s and s[0] != "#"]
    paths = [line[1:] for line in kept if line.startswith("!")]
    assert first == "*"
    assert [path for path in paths if not (PROJECT / path).exists()] == []
    assert {"flows", "tasks", "conf", "constraints.txt", "deploy/requirements.txt"} <= set(paths)
    assert not {"data", "mlruns", "tests", ".git", "deploy"} & set(paths)


def known_names(prefix: str) -> set[str]:
    """The variables with this prefix that the installed library reads."""
    if prefix == "PREFECT":
        from prefect.settings.legacy import _get_settings_fields
        from prefect.settings.models.root import Settings

        return set(_get_settings_fields(Settings))
    from mlflow import environment_variables
    from mlflow.cli import server

    options = {str(p.envvar) for p in server.params if getattr(p, "envvar", None)}
    return options | {v.name for v in vars(environment_variables).values() if hasattr(v, "name")}


def test_every_variable_is_one_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {prefix: known_names(prefix) for prefix in ("PREFECT", "MLFLOW")}
    core = (Path(ray.__file__).parent / "_raylet.so").read_bytes()
    init = (DEPLOY / "compose" / "init-databases.sh").read_text()
    of_images = {"S3_BUCKET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"}
    for where, variables in environments().items():
        for name, value in variables.items():
            prefix = name.partition("_")[0]
            if name.startswith("RAYMILL__"):
                monkeypatch.setenv(name, DEFAULTED.sub(r"\2", ASKED.sub("secret", value)))
            elif where == "postgres":
                assert name == "POSTGRES_PASSWORD" or f"${name}" in init, name
            elif prefix in known:
                assert name in known[prefix], f"{where}: {name}"
            elif prefix == "RAY":
                assert name in {**WORKER_ENV, **QUIET} or name.encode() in core, f"{where}: {name}"
            else:
                assert name in {*of_images, *QUIET, "PATH"}, f"{where}: {name}"
    assert str(load_settings().storage.path) == "/shared/raymill"


def test_every_service_says_when_it_is_healthy_and_waits_for_those_it_needs() -> None:
    for name, service in SERVICES.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert other in SERVICES
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / "compose" / source).exists(), volume
        if service["healthcheck"]["test"][1] == "python":
            compile(service["healthcheck"]["test"][3], name, "exec")


def test_ray_is_started_with_options_that_it_has() -> None:
    from ray.scripts.scripts import start

    known = {name for parameter in start.params for name in parameter.opts}
    commands = [shlex.join(s["command"]) for s in SERVICES.values() if isinstance(s.get("command"), list)]
    commands += GCP["head_start_ray_commands"] + GCP["worker_start_ray_commands"]
    for script in (DEPLOY / "compose" / "worker.sh", DEPLOY / "slurm" / "raymill.sbatch"):
        commands += [line.replace("common=", "ray start ") for line in script.read_text().splitlines()]
    texts = [c.partition("ray start")[2] for c in commands if "ray start" in c and not c.strip().startswith("#")]
    assert len(texts) == 8
    assert {o for text in texts for o in re.findall(r"--[a-z][a-z-]+", text)} - known == set()


def test_pods_are_restricted_and_share_one_folder() -> None:
    assert JOB["spec"]["rayClusterSpec"] == CLUSTER["spec"]
    assert KUBERAY["storage"]["spec"]["accessModes"] == ["ReadWriteMany"]
    root = SETTINGS["data"]["RAYMILL__STORAGE__ROOT"]
    for where, pod in pods().items():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"], where
        assert (security["runAsUser"], security["seccompProfile"]) == (1000, {"type": "RuntimeDefault"}), where
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= set(container["resources"]), where
        if where != "submitter":
            (ray_container,) = pod["spec"]["containers"]
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(ray_container), where
            (shared,) = [v for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v]
            assert shared["persistentVolumeClaim"]["claimName"] == KUBERAY["storage"]["metadata"]["name"]
            mounts = {m["name"]: m["mountPath"] for m in ray_container["volumeMounts"]}
            assert root.startswith(mounts[shared["name"]] + "/")


def test_the_job_runs_the_command() -> None:
    program, *words = shlex.split(JOB["spec"]["entrypoint"])
    group = typer.main.get_command(app)
    assert program == "raymill"
    assert words[0] in group.commands  # type: ignore[attr-defined]


def test_each_page_says_what_must_be_changed() -> None:
    for name, words in {
        "gcp": set(re.findall(r"CHANGE-ME-[a-z-]+", (DEPLOY / "gcp" / "cluster.yaml").read_text())),
        "kuberay": {"registry.example.com", KUBERAY["storage"]["spec"]["storageClassName"], "raymill-secrets"},
        "compose": {"new-env.sh"},
        "slurm": set(re.findall(r"\$\{([A-Z_]+):-", (DEPLOY / "slurm" / "raymill.sbatch").read_text())),
    }.items():
        page = (PROJECT / "docs" / "deploy" / f"{name}.md").read_text()
        assert words, name
        assert {word for word in words if word not in page} == set(), name
