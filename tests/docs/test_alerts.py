"""docs/how-to/alerts.yml: Prometheus accepts it, each alert is tried, and names what there is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from docs_blocks import ROOT, blocks_of

from twinline.cli.server.metrics.table import OF_PROCESS, TABLE
from twinline.core.metrics import Kind

RULES = ROOT / "docs" / "how-to" / "alerts.yml"
TESTS = RULES.with_name("alerts.test.yml")
PAGE = RULES.with_name("watch.md")
OF_HISTOGRAMS = ("_bucket", "_sum", "_count")


def promtool(*arguments: str) -> str:
    """Run it, and return what it says if it is content."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here (Debian: prometheus)")
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts(path: Path = RULES) -> list[str]:
    return re.findall(r"- alert: (\w+)$", path.read_text("utf-8"), re.MULTILINE)


def test_prometheus_accepts_the_rules_and_their_tests_pass() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", str(RULES))
    assert "SUCCESS" in promtool("test", "rules", str(TESTS))


def test_a_rule_that_does_not_fire_is_noticed(tmp_path: Path) -> None:
    (tmp_path / TESTS.name).write_text(TESTS.read_text("utf-8"))
    rules = RULES.read_text("utf-8").replace("twinline_ready == 0", "twinline_ready == 2")
    (tmp_path / RULES.name).write_text(rules)
    with pytest.raises(AssertionError, match="TwinlineNotReady"):
        promtool("test", "rules", str(tmp_path / TESTS.name))


def test_every_alert_is_tried_and_is_on_the_page() -> None:
    tests = TESTS.read_text("utf-8")
    fires = re.findall(r"- name: (\w+) fires$", tests, re.MULTILINE)
    assert fires == alerts()
    assert len(set(fires)) == len(fires)
    page = PAGE.read_text("utf-8")
    assert [name for name in fires if f"`{name}`" not in page] == []
    for name in fires:  # once where it fires, and once where all is well
        assert len(re.findall(rf"alertname: {name}$", tests, re.MULTILINE)) == 2


def unknown(text: str) -> set[str]:
    """Return what expressions name and no server has: metrics, and labels of metrics."""
    known = {each.full_name: set(each.labels) for each in TABLE}
    for each in TABLE:
        if each.kind is Kind.HISTOGRAM:
            del known[each.full_name]
            known |= {each.full_name + end: {*each.labels, "le"} for end in OF_HISTOGRAMS}
    known |= {each.name: {"generation"} for each in OF_PROCESS}
    found = set()
    for name, labels in re.findall(r"\b((?:twinline|process|python)_\w+)(?:\{(.*?)\})?", text):
        names = set(re.findall(r"(\w+)=", labels)) - {"job", "instance"}
        found |= {name} - known.keys() or names - known[name]
    return found


def test_the_rules_and_the_page_name_metrics_and_labels_that_there_are() -> None:
    assert unknown(RULES.read_text("utf-8")) == set()
    assert unknown(TESTS.read_text("utf-8")) == set()
    assert unknown('twinline_nothing > 1 and twinline_ready{op="x"}') == {"twinline_nothing", "op"}


def test_the_scrape_configuration_of_the_page_is_one(tmp_path: Path) -> None:
    (block,) = (each for each in blocks_of(PAGE.read_text("utf-8")) if each.language == "yaml")
    (tmp_path / "prometheus.yml").write_text(block.text)
    (tmp_path / "alerts.yml").write_text(RULES.read_text("utf-8"))
    promtool("check", "config", str(tmp_path / "prometheus.yml"))
