"""Settings: where they come from, what is refused, and that all of them are described."""

from pathlib import Path

import pytest

from apexstream.core.errors import InvalidConfiguration
from apexstream.runtime.settings import Settings, describe_settings, load_settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in describe_settings(Settings()):
        monkeypatch.delenv(setting.name, raising=False)


def test_without_any_variable_every_default_is_valid() -> None:
    settings = load_settings()

    assert settings.url == "http://127.0.0.1:8080"
    assert settings.bootstrap_servers == ""


def test_variables_have_the_prefix_and_kafka_its_usual_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_PORT", "9000")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:2")

    settings = load_settings()

    assert (settings.port, settings.bootstrap_servers) == (9000, "a:1,b:2")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_PORT", "")

    assert load_settings().port == 8080


def test_a_misspelt_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_PROT", "1")

    with pytest.raises(InvalidConfiguration, match="APEX_PROT: unknown setting"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APEX_PORT", "http"),
        ("APEX_PORT", "70000"),
        ("APEX_LOG_LEVEL", "loud"),
        ("APEX_TOPIC_PREFIX", "no-dot"),
        ("APEX_DRAIN_TIMEOUT_S", "0"),
        ("APEX_INSTANCE", "Not An Id"),
        ("KAFKA_BOOTSTRAP_SERVERS", "no-port"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1, b:2"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(InvalidConfiguration) as caught:
        load_settings()

    assert caught.value.where == name
    assert repr(value) in caught.value.what


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:8080"),
        ("::1", "http://[::1]:8080"),
        ("h", "http://h:8080"),
    ],
)
def test_the_gateways_url_can_be_connected_to(host: str, url: str) -> None:
    assert Settings(host=host).url == url


def test_a_process_names_itself_unless_it_is_named() -> None:
    assert Settings(instance="blue").instance_name("runner") == "blue"
    assert Settings().instance_name("runner").startswith("runner-")


def test_every_setting_is_described_with_its_variable() -> None:
    known = describe_settings(Settings())

    assert [setting.name for setting in known if not setting.description] == []
    assert len({setting.name for setting in known}) == len(Settings.model_fields)


def test_the_home_directory_is_resolved() -> None:
    assert Settings().home_path == Path.home() / ".apexstream"
