"""``apexstream dashboards`` from its own environment, against a server that speaks Grafana's API (``make test-grafana``)."""

import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest
from tests.support.grafana import TOKEN, Grafana, grafana

ROOT = Path(__file__).parents[2]
COMMAND = ROOT / ".venv-grafana" / "bin" / "apexstream"
BOARDS = {path.stem for path in (ROOT / "dashboards").glob("*.json")}

pytestmark = pytest.mark.grafana


@pytest.fixture
def server() -> Iterator[Grafana]:
    with grafana() as running:
        yield running


def run(server: Grafana, tmp_path: Path, *arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    (tmp_path / "token").write_text(token + "\n")
    environ = {**os.environ, "GRAFANA_URL": server.url, "GRAFANA_TOKEN_FILE": str(tmp_path / "token")}
    command = [str(COMMAND), "dashboards", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False)


def test_dashboards_are_pushed_once_into_a_folder_with_the_data_source_of_that_name(server: Grafana, tmp_path: Path):
    first = run(server, tmp_path, "push")
    again = run(server, tmp_path, "push")
    assert (first.returncode, again.returncode) == (0, 0), first.stderr
    assert sorted(server.pushed) == sorted(f"apexstream-{name}" for name in BOARDS)
    for dashboard, folder in server.dashboards.values():
        chosen = {v["name"]: v.get("current") for v in dashboard["templating"]["list"]}["datasource"]
        assert (folder, chosen["value"], chosen["text"]) == (server.folders["ApexStream"], "prom-1", "Prometheus")


def test_what_differs_is_named_and_pushing_puts_it_right(server: Grafana, tmp_path: Path):
    assert run(server, tmp_path, "diff").stdout.count("is missing") == len(BOARDS)
    assert server.folders == {}
    run(server, tmp_path, "push")
    changed, _ = server.dashboards["apexstream-overview"]
    changed["panels"][1]["title"] = "Something else"
    server.dashboards["apexstream-kafka"] = server.dashboards["apexstream-kafka"][0], "another"
    found = run(server, tmp_path, "diff")
    assert found.returncode == 1
    assert found.stdout.splitlines() == [
        "apexstream-kafka: is in another folder",
        "apexstream-overview: panels[1].title differs",
    ]
    server.pushed.clear()
    run(server, tmp_path, "push")
    assert sorted(server.pushed) == ["apexstream-kafka", "apexstream-overview"]
    assert run(server, tmp_path, "diff").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("push", "--source", "Nothing"), "there is no data source 'Nothing'"),
        (("push", "--source", "Logs"), "is of type loki, not prometheus"),
        (("diff", "--files", "docs"), "no dashboards here"),
    ],
)
def test_a_mistake_is_told_before_anything_is_changed(
    server: Grafana, tmp_path: Path, arguments: tuple[str, ...], told: str
):
    done = run(server, tmp_path, *arguments)
    assert done.returncode != 0
    assert told in done.stderr
    assert (server.dashboards, server.folders) == ({}, {})


def test_a_token_that_is_refused_and_a_grafana_that_is_not_there_are_named(server: Grafana, tmp_path: Path):
    refused = run(server, tmp_path, "push", token="wrong")
    assert "GRAFANA_TOKEN_FILE" in refused.stderr
    server.broken = True
    assert "Grafana fails with 502" in run(server, tmp_path, "push").stderr
    server.url = "http://127.0.0.1:9"
    away = run(server, tmp_path, "push")
    assert "Check GRAFANA_URL" in away.stderr
    assert not any("Traceback" in done.stderr for done in (refused, away))


def test_the_environment_of_everything_else_has_the_real_urllib3():
    import urllib3

    names = {distribution.metadata["Name"].lower() for distribution in distributions()}
    assert "urllib3-future" not in names
    assert "site-packages/urllib3/" in str(urllib3.__file__)
    assert int(urllib3.__version__.split(".")[1]) < 900, "the fork's minor versions are 900 and more"
