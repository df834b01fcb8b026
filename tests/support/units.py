"""The units of the documentation, and what systemd has against them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from docs_blocks import ROOT

UNIT = ROOT / "docs" / "how-to" / "twinline.service"


def problems_of(unit: Path) -> list[str]:
    """Return what systemd has against a unit, and not against others of this machine."""
    verified = _analyzed("verify", "--man=no", str(unit))
    return [line for line in verified.stderr.splitlines() if "twinline" in line]


def exposure(unit: Path) -> float:
    """Return how exposed systemd finds a unit, from 0 to 10."""
    rated = _analyzed("security", "--offline=yes", "--no-pager", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", rated.stdout)
    assert found is not None, rated.stderr
    return float(found[1])


def _analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=50, check=False
    )
