"""The alerts: each has a section in the runbook and a test, and asks for metrics that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from apexstream.runtime.meters import METERS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"][0]["rules"]
TESTED = {test["name"] for test in yaml.safe_load((FOLDER / "rules.test.yml").read_text())["tests"]}
SECTIONS = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
OURS = {metric.declaration.name for metric in METERS.all()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_where_to_read_on(rule: dict[str, Any]) -> None:
    page, _, section = rule["annotations"]["runbook"].partition("#")

    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert (ROOT / page).is_file()
    assert section == rule["alert"].lower()


def test_every_alert_has_its_section_and_its_test_and_nothing_else_has() -> None:
    alerts = [rule["alert"] for rule in RULES]

    assert sorted(SECTIONS) == sorted(alerts)
    assert sorted(alerts) == sorted(TESTED)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_declared_metrics_and_their_own_labels(rule: dict[str, Any]) -> None:
    asked = re.findall(r"\b(apexstream_\w+?)(?:_bucket|_count|_sum)?\b(?=[\s{\[()]|$)", rule["expr"])

    assert asked or "up{" in rule["expr"]
    assert set(asked) <= OURS
