"""S23: what is shipped is pinned, known, and can be audited: `make audit` asks for known holes and writes a bill."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)")


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture
def pinned() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    wanted = [line for line in lines if line.strip() and not line.startswith("#")]
    matches = [PIN.fullmatch(line.partition(";")[0].strip()) for line in wanted]
    assert all(matches), [line for line, match in zip(wanted, matches, strict=True) if not match]
    return {plain(match[1]): match[2] for match in matches if match}


def test_s23_every_package_is_pinned_to_one_version(pinned):
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert len(pinned) == sum(1 for line in lines if line.strip() and not line.startswith("#")) > 100
    assert all("*" not in version for version in pinned.values())


def test_s23_what_the_project_asks_for_is_in_the_lock(pinned):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [
        *project["dependencies"],
        *(item for name in ("api", "jobs", "models", "provenance", "dev") for item in extras[name]),
    ]
    names = {plain(re.match(r"[A-Za-z0-9._-]+", item)[0]) for item in asked} - {"refilm"}
    assert names <= set(pinned), names - set(pinned)


def test_s23_images_install_from_the_lock_alone():
    for path in (ROOT / "docker").glob("*.Dockerfile"):
        text = path.read_text()
        for line in re.findall(r"pip install ([^\n]*(?:\\\n[^\n]*)*)", text):
            assert "requirements.lock" in line or "--no-deps" in line, (path.name, line)
        assert "curl" not in text and "ADD http" not in text, path.name


def test_s23_the_audit_is_one_command():
    recipe = re.search(r"^audit:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe and "pip-audit" in recipe[1] and "cyclonedx-py" in recipe[1]
    assert recipe[1].count("requirements.lock") >= 2
