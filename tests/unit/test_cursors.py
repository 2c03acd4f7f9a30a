"""Cursors: they come back as they were, and no other text does."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexstream.core.errors import InvalidConfiguration
from apexstream.gateway.cursors import CURSOR_CHARACTERS_MAX, SEQ_MAX, CursorRefused, Cursors, Position, shared_key
from apexstream.runtime.settings import Settings

KEY = bytes(range(32))
CURSORS = Cursors(KEY, "log-1")
positions = st.builds(Position, st.integers(0, SEQ_MAX), st.integers(0, 2**32))


@given(st.text(), positions, st.text())
def test_a_cursor_comes_back_as_it_was(stream_id: str, position: Position, view: str):
    token = CURSORS.mint(stream_id, position, view)
    assert CURSORS.read(token, stream_id, view) == position
    assert len(token) <= CURSOR_CHARACTERS_MAX
    assert token.isascii()
    assert not set(token) & set(",&=?/ %#\r\n\0")


@given(positions, positions)
def test_cursors_sort_as_their_seqs_do(a: Position, b: Position):
    if a.seq < b.seq:
        assert CURSORS.mint("s", a) < CURSORS.mint("s", b)


def refusal(token: str, cursors: Cursors = CURSORS, stream_id: str = "s", view: str = "") -> str:
    with pytest.raises(CursorRefused) as refused:
        cursors.read(token, stream_id, view)
    return refused.value.code


@given(positions, st.integers(0, 200), st.characters(min_codepoint=33, max_codepoint=126))
def test_no_character_of_a_cursor_can_be_changed(position: Position, at: int, other: str):
    token = CURSORS.mint("s", position)
    at %= len(token)
    if token[at] != other:
        assert refusal(token[:at] + other + token[at + 1 :]) in {"cursor_invalid", "cursor_epoch"}


@pytest.mark.parametrize(
    "token",
    [
        "",
        "0",
        "-1",
        "now",
        "0000000000000001_0_",
        "9" * 300,
        "0000000000000001_0_" + "A" * 22,
        "\u0661" * 16 + "_0_" + "A" * 22,
    ],
)
def test_what_is_no_cursor_is_refused(token: str):
    assert refusal(token) == "cursor_invalid"


def test_a_cursor_serves_its_stream_its_view_and_its_log_alone():
    token = CURSORS.mint("s", Position(7, 1))
    assert refusal(token, stream_id="t") == "cursor_invalid"
    assert refusal(token, view="data") == "cursor_invalid"
    assert refusal(token, Cursors(bytes(32), "log-1")) == "cursor_invalid"
    assert refusal(token, Cursors(KEY, "log-2")) == "cursor_epoch"
    assert Cursors(KEY, "log-1").read(token, "s") == Position(7, 1)


def test_a_stream_and_its_view_cannot_be_confused_with_another_stream():
    assert refusal(CURSORS.mint("ab", Position(1), "c"), stream_id="a", view="bc") == "cursor_invalid"


@pytest.mark.parametrize("position", [Position(-1), Position(SEQ_MAX + 1), Position(0, -1)])
def test_what_no_reader_can_be_at_has_no_cursor(position: Position):
    with pytest.raises(ValueError, match="no cursor"):
        CURSORS.mint("s", position)


def test_gateways_of_one_machine_share_the_key_that_the_first_one_makes(tmp_path: Path):
    settings = Settings(home=tmp_path)
    key = shared_key(settings)
    assert shared_key(settings) == key
    assert (tmp_path / "cursor.key").stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cursor.key"]


def test_a_key_that_is_named_must_be_there_and_long_enough(tmp_path: Path):
    with pytest.raises(InvalidConfiguration, match="APEX_CURSOR_KEY_FILE"):
        shared_key(Settings(home=tmp_path, cursor_key_file=str(tmp_path / "none")))
    (tmp_path / "short").write_text("abc\n")
    with pytest.raises(InvalidConfiguration, match="16 to 64"):
        shared_key(Settings(home=tmp_path, cursor_key_file=str(tmp_path / "short")))
