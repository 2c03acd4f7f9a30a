"""The commands that need nothing but this machine, and the command line as a whole."""

import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from apexstream import __version__
from apexstream.cli.doctor import Status, check_home, check_jars, check_platform, check_python
from apexstream.cli.exits import ExitCode, exit_code_for
from apexstream.cli.main import run_command_line
from apexstream.core import errors
from apexstream.gateway.access.build import policy_of
from apexstream.gateway.access.keys import read_keys
from apexstream.gateway.access.tokens import kid_of, read_token
from apexstream.runtime.settings import Settings, describe_settings

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
PLUGINS = Path(__file__).parents[1] / "support" / "plugins"
HEAVY = {"aiokafka", "asyncio", "httpx", "pydantic", "rich", "structlog", "uvicorn", "websockets", "yaml"}


@pytest.fixture(autouse=True)
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings from outside; logging as it was."""
    for setting in describe_settings(Settings()):
        monkeypatch.delenv(setting.name, raising=False)
    monkeypatch.setenv("APEX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "cache"))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def command(*arguments: str) -> int:
    return run_command_line(arguments)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in text.splitlines()]


@pytest.mark.parametrize("arguments", [("version",), ("--version",)])
def test_the_version_is_alone_on_stdout(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*arguments) == ExitCode.OK

    assert capsys.readouterr() == (f"{__version__}\n", "")


def test_the_command_line_imports_nothing_heavy_before_it_knows_the_command() -> None:
    code = f"import sys, apexstream.cli.main; print(sorted({HEAVY!r} & set(sys.modules)))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded == "[]\n"


def test_without_a_command_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == ExitCode.OK

    assert "Usage: apexstream" in capsys.readouterr().out


def test_settings_are_listed_with_variable_value_and_meaning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APEX_PORT", "7000")

    assert command("settings", "-o", "json") == ExitCode.OK

    listed = {line["name"]: line for line in json_lines(capsys.readouterr().out)}
    assert set(listed) == {setting.name for setting in describe_settings(Settings())}
    assert (listed["APEX_PORT"]["value"], listed["APEX_PORT"]["default"]) == ("7000", "8080")


def test_a_wrong_setting_is_one_line_with_the_status_of_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APEX_PROT", "1")

    assert command("tasks") == ExitCode.USAGE

    assert capsys.readouterr().err == "error: APEX_PROT: unknown setting. See `apexstream settings` for all of them\n"


def test_a_traceback_is_shown_at_debug_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command("tasks", "--url", "nowhere")
    assert "Traceback" not in capsys.readouterr().err

    monkeypatch.setenv("APEX_LOG_LEVEL", "debug")
    command("tasks", "--url", "nowhere")
    assert "Traceback" in capsys.readouterr().err


def test_a_defect_is_one_line_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("apexstream.cli.settings.list_settings", broken)

    assert command("settings") == ExitCode.INTERNAL
    assert capsys.readouterr().err.startswith(
        "error: apexstream: ZeroDivisionError: division by zero. This is a defect"
    )


def test_topics_are_listed_without_kafka(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_TOPIC_PREFIX", "mine.")

    assert command("topics", "list", "-o", "json") == ExitCode.OK

    topics = json_lines(capsys.readouterr().out)
    assert "mine.chunks" in {topic["name"] for topic in topics}
    assert all(topic["partitions"] > 0 and topic["purpose"] for topic in topics)


def test_without_kafka_topics_cannot_be_compared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{unused_tcp_port}")

    assert command("topics", "diff") == ExitCode.UNAVAILABLE

    error = capsys.readouterr().err
    assert error.startswith(f"error: 127.0.0.1:{unused_tcp_port}: Kafka cannot be reached")
    assert error.count("\n") == 1


def test_plugins_are_listed_with_their_actions_and_the_broken_ones_with_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))

    assert command("plugins", "list", "-o", "json") == ExitCode.FAILED

    rows = json_lines(capsys.readouterr().out)
    count = next(row for row in rows if (row["plugin"], row.get("action")) == ("probe", "count"))
    assert count["streams"] is True
    assert count["params_schema"]["properties"]["n"] == {"type": "integer", "default": 5}
    assert [row for row in rows if "broken" in row]


def test_doctor_reports_every_check_and_fails_only_for_failures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setenv("APEX_KAFKA_PORT", str(unused_tcp_port))
    monkeypatch.setenv("APEX_PORT", "0")

    status = command("doctor", "-o", "json")

    found = {line["name"]: line for line in json_lines(capsys.readouterr().out)}
    assert {"python", "platform", "jvm", "jars", "aot cache", "home", "gateway port", "kafka", "topics"} <= set(found)
    assert found["kafka"]["status"] == "warn"
    assert "apexstream up" in found["kafka"]["todo"]
    failed = [line for line in found.values() if line["status"] == "fail"]
    assert status == (ExitCode.FAILED if failed else ExitCode.OK)


def test_doctor_fails_when_the_kafka_that_was_named_does_not_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{unused_tcp_port}")

    assert command("doctor") == ExitCode.FAILED

    assert re.search(r"^fail  kafka .*KAFKA_BOOTSTRAP_SERVERS", capsys.readouterr().out, re.MULTILINE)


def test_single_checks_know_good_from_bad(tmp_path: Path) -> None:
    assert check_python((3, 11, 0)).status is Status.OK
    assert check_python((3, 10, 9)).status is Status.FAIL
    assert check_platform("Linux").status is Status.OK
    assert check_platform("Plan 9").status is Status.FAIL
    assert check_jars(tmp_path).detail.startswith("0 of ")
    assert check_home(tmp_path / "not" / "yet").status in {Status.OK, Status.WARN}


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (errors.InvalidParameters("x"), ExitCode.USAGE),
        (errors.InvalidConfiguration("x"), ExitCode.USAGE),
        (errors.UnknownAction("x"), ExitCode.UNKNOWN),
        (errors.UnknownTask("x"), ExitCode.UNKNOWN),
        (errors.OutcomeUnknown("x"), ExitCode.UNAVAILABLE),
        (errors.PluginFailed("x"), ExitCode.FAILED),
        (errors.DataCorruption("x"), ExitCode.FAILED),
    ],
)
def test_each_error_has_its_status(problem: errors.ApexError, code: ExitCode) -> None:
    assert exit_code_for(problem) is code


def test_the_manual_has_every_command_every_option_and_every_status(capsys: pytest.CaptureFixture[str]) -> None:
    manual = DOCS.read_text()
    commands = ["up", "serve", "run", "tail", "tasks", "cancel", "topics apply", "topics diff", "topics list"]
    commands += ["plugins list", "doctor", "settings", "version"]

    for each in commands:
        assert f"apexstream {each}" in manual, each
        command(*each.split(), "--help")
        options = set(re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out)) - {"--help"}
        assert [option for option in options if option not in manual] == [], each
    for code in ExitCode:
        assert f"| {code.value} |" in manual, code


def test_the_manual_knows_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    command("--help")

    listed = re.findall(r"^  ([a-z-]+)  ", capsys.readouterr().out.partition("Commands:")[2], re.MULTILINE)
    assert len(listed) == 22
    assert [name for name in listed if f"apexstream {name}" not in DOCS.read_text()] == []


def test_a_token_is_alone_on_stdout_and_verifies_with_the_published_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("token", "--tenant", "acme", "--scope", "read:a-*", "--hours", "1") == ExitCode.OK
    told = capsys.readouterr()
    assert command("token", "--new-key") == ExitCode.OK
    newer = capsys.readouterr().out
    folder = tmp_path / "home" / "auth"

    policy = policy_of(Settings())
    keys = read_keys((folder / "jwks.json").read_bytes(), frozenset(policy.algorithms))
    token = told.out.strip()
    principal = read_token(token, keys[kid_of(token)], policy, time.time())
    assert (principal.subject, principal.tenant, str(principal.scopes[0])) == ("developer", "acme", "read:a-*")
    assert kid_of(newer.strip()) in keys
    assert kid_of(newer.strip()) != kid_of(token)
    assert (folder / "signing-key.pem").stat().st_mode & 0o777 == 0o600
    assert str(folder / "jwks.json") in told.err


def test_a_signing_key_that_others_may_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("token")
    (tmp_path / "home" / "auth" / "signing-key.pem").chmod(0o644)
    assert command("token") == ExitCode.USAGE
    assert "chmod 600" in capsys.readouterr().err


def test_a_scope_that_means_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("token", "--scope", "everything") == ExitCode.USAGE
    assert "'everything' is no scope" in capsys.readouterr().err


def test_the_token_is_not_shown_among_the_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APEX_TOKEN", "very-secret")
    assert command("settings", "-o", "json") == ExitCode.OK
    assert "very-secret" not in capsys.readouterr().out
