"""What twinline depends on has bounds, and the lowest versions are tried by a tox environment."""

import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Its versions are years, so the next one promises nothing that a bound could keep out.
NUMBERED_BY_YEAR = {"argon2-cffi"}


def requirements() -> Iterator[Requirement]:
    project = PROJECT["project"]
    yield from map(Requirement, project["dependencies"])
    for extra in project["optional-dependencies"].values():
        yield from map(Requirement, extra)
    yield from map(Requirement, PROJECT["build-system"]["requires"])


def bounds(requirement: Requirement) -> dict[str, str]:
    return {one.operator: one.version for one in requirement.specifier}


def test_the_lowest_versions_are_those_of_the_project() -> None:
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    kept = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(bounds(one).keys() == {"=="} for one in kept)
    assert {canonicalize_name(one.name): bounds(one)["=="] for one in kept} == {
        canonicalize_name(one.name): bounds(one).get(">=")
        for one in requirements()
        if one.name != PROJECT["project"]["name"]
    }
    assert len(kept) == len({canonicalize_name(one.name) for one in kept})


@pytest.mark.parametrize("text", PROJECT["project"]["dependencies"])
def test_what_is_needed_at_run_time_stays_below_the_next_major_version(text: str) -> None:
    requirement = Requirement(text)
    major = int(bounds(requirement)[">="].partition(".")[0])
    if requirement.name not in NUMBERED_BY_YEAR:
        assert bounds(requirement).get("<") == str(major + 1)


def test_the_lowest_versions_are_tried_by_tox_and_in_ci() -> None:
    tox = ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    assert "constraints-lowest.txt" in tox["testenv:lowest"]["set_env"]
    assert tox["testenv:lowest"]["base_python"] == "python3.11"
    assert tox["testenv:package"]["set_env"].strip() == "{[testenv:lowest]set_env}"
    assert "for env in package " in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
