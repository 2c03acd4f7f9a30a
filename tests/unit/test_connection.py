"""What settings about Kafka's security become, and what is refused before any connection is tried."""

import ssl
from pathlib import Path

import pytest

from apexstream.core.errors import InvalidConfiguration
from apexstream.log.connection import Connection, connection
from apexstream.runtime.settings import Settings


def settings(**fields: object) -> Settings:
    return Settings(bootstrap_servers="k1:9092,k2:9092", **fields)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    return path


def test_an_open_listener_needs_no_options():
    assert connection(settings()).options == {"bootstrap_servers": "k1:9092,k2:9092"}


def test_a_string_is_an_open_listener():
    assert Connection.to("k:1") == Connection("k:1")
    assert Connection.to(Connection("k:1")) == Connection("k:1")


def test_name_and_password_reach_the_client(password: Path):
    reached = connection(
        settings(
            kafka_security_protocol="SASL_PLAINTEXT", kafka_sasl_username="runner", kafka_sasl_password_file=password
        )
    )
    assert reached.options == {
        "bootstrap_servers": "k1:9092,k2:9092",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "runner",
        "sasl_plain_password": "s3cret",
    }


def test_a_password_is_shown_nowhere(password: Path):
    reached = connection(
        settings(kafka_security_protocol="SASL_SSL", kafka_sasl_username="runner", kafka_sasl_password_file=password)
    )
    assert "s3cret" not in f"{reached} {reached!r}"


def test_tls_verifies_the_broker():
    context = connection(settings(kafka_security_protocol="SSL")).options["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"kafka_security_protocol": "SASL_SSL"}, "KAFKA_SASL_USERNAME"),
        (
            {
                "kafka_security_protocol": "SASL_SSL",
                "kafka_sasl_username": "a",
                "kafka_sasl_password_file": Path("no-such-file"),
            },
            "KAFKA_SASL_PASSWORD_FILE",
        ),
        ({"kafka_security_protocol": "SSL", "kafka_ssl_cafile": Path("no-such-file")}, "KAFKA_SSL_CAFILE"),
        ({"kafka_security_protocol": "SSL", "kafka_ssl_certfile": Path(__file__)}, "KAFKA_SSL_CERTFILE"),
    ],
)
def test_credentials_that_cannot_be_used_are_refused(fields: dict[str, object], where: str):
    with pytest.raises(InvalidConfiguration) as refused:
        connection(settings(**fields))
    assert where in str(refused.value.where)
