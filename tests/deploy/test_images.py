"""Dockerfiles and compose files without an engine: a linter of our own, and Docker Compose reading its files."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.conftest import DOCKER, ROOT, containers, of_kind

pytestmark = pytest.mark.deploy

DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
KNOWN = {
    *("FROM", "RUN", "CMD", "LABEL", "EXPOSE", "ENV", "ADD", "COPY", "ENTRYPOINT", "VOLUME", "USER", "WORKDIR", "ARG"),
    *("ONBUILD", "STOPSIGNAL", "HEALTHCHECK", "SHELL"),
}


def instructions(path: Path) -> list[tuple[str, str]]:
    """Name and value of every instruction, continuation lines joined."""
    import io

    from dockerfile_parse import DockerfileParser

    parser = DockerfileParser(fileobj=io.BytesIO(path.read_bytes()))
    return [(item["instruction"], item["value"]) for item in parser.structure if item["instruction"] != "COMMENT"]


def lint(found: list[tuple[str, str]]) -> list[str]:
    """What is wrong with a Dockerfile, in the spirit of the usual linters' rules."""
    problems = [f"unknown instruction {name}" for name, _ in found if name not in KNOWN]
    stages = [value for name, value in found if name == "FROM"]
    final = found[max(i for i, (name, _) in enumerate(found) if name == "FROM") :]
    last = {name: value for name, value in final}
    problems += [f"FROM {value} has no tag" for value in stages if not re.match(r"(\$\{|\S+[:@])", value)]
    problems += [f"{value} is latest" for name, value in found if name in {"FROM", "ARG"} and ":latest" in value]
    problems += ["not built in stages"] * (len(stages) < 2 or not all(" AS " in stage for stage in stages))
    problems += ["ADD instead of COPY"] * any(name == "ADD" for name, _ in found)
    problems += [f"no {name}" for name in ("USER", "HEALTHCHECK", "ENTRYPOINT", "WORKDIR", "LABEL") if name not in last]
    user = last.get("USER", "root").partition(":")[0]
    problems += ["runs as root, or as a name that Kubernetes cannot check"] * (not user.isdigit() or user == "0")
    for name in ("ENTRYPOINT", "CMD"):
        problems += [f"{name} is not in the exec form"] * (not last.get(name, "[").startswith("["))
    health = last.get("HEALTHCHECK", "")
    problems += ["HEALTHCHECK is not in the exec form"] * bool(health and not re.search(r"CMD \[", health))
    order = [name for name, _ in final]
    if {"USER", "RUN"} <= set(order):
        problems += ["RUN after USER"] * (order.index("USER") < len(order) - 1 - order[::-1].index("RUN"))
    for name, value in found:
        problems += lint_run(value) if name == "RUN" else []
        problems += [f"relative WORKDIR {value}"] * (name == "WORKDIR" and not value.startswith("/"))
        secret = re.search(r"(PASSWORD|SECRET|TOKEN|_KEY)\w*=\S", value)
        problems += [f"a secret in {name}"] * bool(name in {"ENV", "ARG"} and secret)
    return problems


def lint_run(value: str) -> list[str]:
    """What is wrong with one RUN."""
    problems = []
    if "pip install" in value:
        problems += ["pip without its cache mounted"] * ("--mount=type=cache" not in value)
        locked = "requirements.lock" in value or "--no-deps" in value
        problems += ["pip without the lock"] * (not locked)
    if "apt-get install" in value:
        problems += ["apt-get without -y"] * (" -y" not in value)
        problems += ["apt-get with recommendations"] * ("--no-install-recommends" not in value)
        problems += ["apt-get lists are left"] * ("rm -rf /var/lib/apt/lists" not in value)
    problems += ["sudo"] * bool(re.search(r"\bsudo\b", value))
    problems += ["a download piped to a shell"] * bool(re.search(r"(curl|wget)[^|]*\|\s*(ba)?sh", value))
    problems += ["cd instead of WORKDIR"] * bool(re.match(r"(--\S+\s+)*cd ", value))
    return problems


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_are_clean(path) -> None:
    assert lint(instructions(path)) == []


BROKEN = {
    "FROM python:3.11-slim": "FROM python:latest",
    "USER 10001:10001": "USER refilm",
    'ENTRYPOINT ["python", "-m"]': "ENTRYPOINT python -m",
    "HEALTHCHECK": "HEALTCHECK",
    "COPY docker/tools": "ADD docker/tools",
    "--constraint requirements.lock ": "",
    "RUN --mount=type=cache,target=/root/.cache/pip": "RUN",
    "PYTHONUNBUFFERED=1": "PYTHONUNBUFFERED=1 HF_TOKEN=abc",
    "WORKDIR /src": "WORKDIR src",
    "AS build": "",
}


@pytest.mark.parametrize("right", BROKEN)
def test_the_linter_bites(right, tmp_path) -> None:
    text = (DOCKER / "api.Dockerfile").read_text()
    right, wrong = (right, BROKEN[right]) if right in text else ("python:3.11-slim-bookworm", "python:latest")
    path = tmp_path / "Dockerfile"
    path.write_text(text.replace(right, wrong))
    assert lint(instructions(path))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_is_not_ignored(path) -> None:
    ignore = path.with_name(f"{path.name}.dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {line[1:] for line in rules if line.startswith("!")}
    sources = set()
    for name, value in instructions(path):
        if name == "COPY" and "--from" not in value:
            sources |= set(value.split()[:-1])
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)
    assert "**/__pycache__" in rules


def test_packages_are_installed_before_the_sources_are_copied() -> None:
    """So that a change of the code does not install torch again."""
    for path in DOCKERFILES:
        found = instructions(path)
        install = next(i for i, (name, value) in enumerate(found) if name == "RUN" and "--constraint" in value)
        code = next(i for i, (name, value) in enumerate(found) if name == "COPY" and "./jobs" in value)
        assert install < code


def test_the_api_image_has_no_torch() -> None:
    text = (DOCKER / "api.Dockerfile").read_text()
    assert '".[api,otel]"' in text and "COPY models" not in text and "--constraint requirements.lock" in text


def test_only_workers_sign(composed) -> None:
    assert '".[workers,otel,provenance]"' in (DOCKER / "worker.Dockerfile").read_text()
    assert "provenance" not in (DOCKER / "api.Dockerfile").read_text()
    services = composed("compose.yaml", REFILM_PROVENANCE_KEY_FILE="/etc/keys/signer.key")["services"]
    for name, service in services.items():
        given = [secret["source"] for secret in service.get("secrets", [])]
        assert given == (["signer-certificates", "signer-key"] if name.startswith("worker") else []), name
        assert ("REFILM_PROVENANCE_KEY" in service.get("environment", {})) == bool(given), name
    assert services["api"]["environment"]["REFILM_PROVENANCE"] == "off"


def entry(path: Path) -> list[str]:
    values = dict(instructions(path))
    return [*json.loads(values["ENTRYPOINT"]), *json.loads(values["CMD"])]


def test_images_compose_and_chart_run_the_same_commands(composed, template) -> None:
    commands = {where.rpartition("/")[2]: c["command"] for where, c in containers(of_kind(template(), "Deployment"))}
    services = composed("compose.yaml")["services"]
    api, worker = entry(DOCKER / "api.Dockerfile"), entry(DOCKER / "worker.Dockerfile")
    assert commands["api"] == api == ["python", "-m", *services["api"]["command"]]
    assert commands["worker"] == worker == ["python", "-m", *services["worker-cpu"]["command"]]
    assert services["worker-gpu"]["command"] == services["worker-cpu"]["command"]
    for name in ("scheduler", "fetcher"):
        assert commands[name] == ["python", "-m", *services[name]["command"]]


def test_tools_that_are_called_exist(composed, template) -> None:
    text = json.dumps([composed("compose.yaml"), template("production"), template("air-gapped")])
    text += "".join(path.read_text() for path in DOCKERFILES)
    called = set(re.findall(r"/opt/refilm/tools/(\w+\.py)", text))
    assert called == {path.name for path in (DOCKER / "tools").glob("*.py")}


def test_compose_files_follow_the_specification(composed) -> None:
    for files in (("compose.yaml",), ("compose.yaml", "compose.dev.yaml")):
        services = composed(*files)["services"]
        names = {"api", "scheduler", "fetcher", "worker-cpu", "worker-gpu", "bucket", "valkey", "s3"}
        assert set(services) == names


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("    mem_limit: 512m", "    mem_limt: 512m", "mem_limt"),
        ("    ports: [", "    ports: [{target: no}, ", "ports"),
        ("condition: service_healthy", "condition: service_health", "depends_on"),
        ("capabilities: [gpu]", "capabilities: gpu", "capabilities"),
    ],
)
def test_a_wrong_compose_file_is_refused(compose, tmp_path, right, wrong, told) -> None:
    from tests.deploy.conftest import COMPOSE_SECRETS

    path = tmp_path / "compose.yaml"
    path.write_text((DOCKER / "compose.yaml").read_text().replace(right, wrong, 1))
    done = compose("-f", str(path), "--profile", "*", "config", "--quiet", **COMPOSE_SECRETS)
    assert done.returncode != 0 and told in done.stderr, done.stderr


@pytest.mark.parametrize(
    "missing", ["VALKEY_PASSWORD", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "REFILM_CACHE_SALT"]
)
def test_compose_asks_for_every_secret(compose, missing) -> None:
    from tests.deploy.conftest import COMPOSE_SECRETS

    given = {name: value for name, value in COMPOSE_SECRETS.items() if name != missing}
    done = compose("-f", "docker/compose.yaml", "config", "--quiet", **given)
    assert done.returncode != 0 and missing in done.stderr and "docker/.env" in done.stderr
    assert f"{missing}=" in (DOCKER / "example.env").read_text()


def test_compose_services_have_no_rights_and_no_open_ports(composed) -> None:
    config = composed("compose.yaml")
    for name, service in config["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and not service.get("privileged"), name
        assert "mem_limit" in service and "pids_limit" in service, name
        assert "healthcheck" in service, name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        assert not service["image"].endswith(":latest") and ":" in service["image"], name
        if name not in {"valkey", "s3"}:
            assert service["read_only"] and service["user"] == "10001:10001", name
    assert config["networks"]["inside"]["internal"] is True
    for name in ("worker-cpu", "worker-gpu", "bucket"):
        assert list(config["services"][name]["networks"]) == ["inside"]


def test_compose_keeps_what_must_not_be_lost(composed) -> None:
    services = composed("compose.yaml")["services"]
    valkey = shlex.join(services["valkey"]["command"])
    assert "--appendonly yes" in valkey and "--maxmemory-policy noeviction" in valkey
    for name in ("valkey", "s3"):
        assert [volume["target"] for volume in services[name]["volumes"]] == ["/data"]
    assert "minio" not in services["s3"]["image"]
    for name in ("worker-cpu", "worker-gpu"):
        grace = int(services[name]["environment"]["REFILM_SHUTDOWN_GRACE_SECONDS"])
        assert services[name]["stop_grace_period"] == "1m15s" and grace <= 60
    gpu = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert (gpu["driver"], gpu["capabilities"]) == ("nvidia", ["gpu"])


def test_compose_settings_are_settings_of_the_service(composed) -> None:
    from api.settings import ApiSettings
    from jobs.settings import Settings

    known = {f"REFILM_{name.upper()}" for name in Settings.model_fields}
    known |= {f"REFILM_API_{name.upper()}" for name in ApiSettings.model_fields}
    services = composed("compose.yaml", "compose.dev.yaml")["services"].values()
    used = {name for service in services for name in service.get("environment", {}) if name.startswith("REFILM_")}
    assert len(used) > 10 and used <= known


DIGEST = "sha256:" + "5" * 64


def pin(folder: Path, answer: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of pin.sh with a `docker` that gives this answer."""
    for path in [*DOCKER.glob("*.Dockerfile"), *DOCKER.glob("compose*.yaml"), DOCKER / "pin.sh"]:
        shutil.copy(path, folder)
    docker = folder / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f"#!/bin/sh\n{answer}\n")
    docker.chmod(0o755)
    return subprocess.run(
        [folder / "pin.sh"], env={"PATH": f"{docker.parent}:/usr/bin:/bin"}, capture_output=True, text=True
    )


def test_base_images_can_be_pinned_by_digest(compose, composed, tmp_path) -> None:
    assert pin(tmp_path, f"echo {DIGEST}").returncode == 0
    pins = dict(line.split("=", 1) for line in (tmp_path / "pins.env").read_text().splitlines())
    assert set(pins) == {"PYTHON_IMAGE", "SEAWEEDFS_IMAGE", "VALKEY_IMAGE"}
    services = composed("compose.yaml", **pins)["services"]
    used = [services[name]["image"] for name in ("valkey", "s3")]
    used += [services[name]["build"]["args"]["PYTHON_IMAGE"] for name in ("api", "worker-cpu", "worker-gpu")]
    assert all(re.fullmatch(rf"[\w./-]+:[\w.-]+@{DIGEST}", image) for image in used)
    tags = {image for path in DOCKERFILES for name, image in instructions(path) if name == "FROM"}
    assert all(image.startswith("${PYTHON_IMAGE}") for image in tags)


@pytest.mark.parametrize("answer", ["echo no such image >&2; exit 1", "echo latest"])
def test_nothing_is_pinned_halfway(tmp_path, answer) -> None:
    done = pin(tmp_path, answer)
    assert done.returncode == 1 and ("nothing was pinned" in done.stderr or "no such image" in done.stderr)
    assert not (tmp_path / "pins.env").exists()
