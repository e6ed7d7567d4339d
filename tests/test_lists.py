"""Every fault and every attack that the service promises to withstand has a test that carries its id in its name."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NAME = re.compile(r"^(?:async )?def test_((?:[fs]\d\d_)+)", re.MULTILINE)
FAULTS = [f"f{number:02}" for number in range(1, 33)]
ATTACKS = [f"s{number:02}" for number in range(1, 26)]


@pytest.fixture(scope="module")
def tested() -> set[str]:
    found = (NAME.findall(path.read_text()) for path in TESTS.rglob("test_*.py"))
    return {each for names in found for name in names for each in name.strip("_").split("_")}


@pytest.mark.parametrize("wanted", FAULTS + ATTACKS)
def test_the_list_is_covered(tested: set[str], wanted: str) -> None:
    assert wanted in tested
