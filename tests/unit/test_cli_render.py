"""How frames, tables and errors look."""

from typing import Any

import pytest

from apexstream.cli.output import ReaderGoneError, printable, say_error, write_data, write_json
from apexstream.cli.render import TextView, chunk_text, progress_text, view_for
from apexstream.cli.table import write_table
from apexstream.client import Cancelled, Complete, Frame, Progress, ProgressReport, Rewind, Update, decode_frame
from apexstream.core.errors import Unavailable


def update(data: Any, **more: str) -> Update:
    return Update(stream_id="s", seq=0, data=data, **more)


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (update("plain"), "plain"),
        (update("line\n"), "line"),
        (update("two\nlines\n"), "two\nlines"),
        (update({"text": "said", "score": 1}), "said"),
        (update({"text": 5}), '{"text":5}'),
        (update({"a": [1, None, "é"]}), '{"a":[1,null,"é"]}'),
        (update(None), "null"),
        (update(3.5), "3.5"),
        (update("# T", content_type="text/markdown"), "# T"),
        (update("AAEC", content_type="image/png", encoding="base64"), "<image/png, 3 bytes>"),
        (update("", encoding="base64"), "<bytes, 0 bytes>"),
    ],
)
def test_a_chunk_is_shown_as_its_text_or_as_json_on_one_line(frame: Update, text: str) -> None:
    assert chunk_text(frame) == text


@pytest.mark.parametrize(
    ("report", "bar", "text"),
    [
        (ProgressReport(percentage=12.5, message="reading"), False, " 12.5 % reading"),
        (ProgressReport(percentage=50, message="half"), True, " 50.0 % ████████████░░░░░░░░░░░░ half"),
        (ProgressReport(percentage=250), True, "100.0 % ████████████████████████ running"),
        (ProgressReport(percentage=-1, status="waiting"), False, "  0.0 % waiting"),
        (ProgressReport(message="who knows"), True, "who knows"),
        (ProgressReport(message="two\nlines \x1b[31m"), False, "two lines \\x1b[31m"),
    ],
)
def test_progress_is_one_line(report: ProgressReport, bar: bool, text: str) -> None:
    assert progress_text(report, bar=bar) == text


FRAMES: list[Frame] = [
    Progress(stream_id="s", seq=0, progress=ProgressReport(percentage=1, message="begin")),
    Update(stream_id="s", seq=1, data="one"),
    Rewind(stream_id="s", seq=1),
    Update(stream_id="s", seq=1, data={"two": 2}),
    Complete(stream_id="s", seq=2),
]


def test_text_puts_chunks_on_stdout_and_everything_else_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    view = view_for("text")
    for frame in FRAMES:
        view.show(frame)

    shown = capsys.readouterr()
    assert shown.out == 'one\n{"two":2}\n'
    assert shown.err.splitlines() == [
        "  1.0 % begin",
        "the task was started again: what follows replaces everything from seq 1 on",
    ]


def test_json_puts_every_frame_on_stdout_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    view = view_for("json")
    for frame in FRAMES:
        view.show(frame)

    shown = capsys.readouterr()
    assert [decode_frame(line) for line in shown.out.splitlines()] == FRAMES
    assert shown.err == ""


def test_without_a_terminal_progress_lines_are_rare_but_the_last_one_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    view = TextView(live=False)
    for percentage in range(101):
        view.show(Progress(stream_id="s", seq=percentage, progress=ProgressReport(percentage=percentage)))

    assert capsys.readouterr().err.splitlines() == ["  0.0 % running", "100.0 % running"]


def test_a_live_progress_bar_is_gone_when_the_stream_ends(capsys: pytest.CaptureFixture[str]) -> None:
    view = TextView(live=True)
    view.show(FRAMES[0])
    view.show(Cancelled(stream_id="s", seq=1))
    view.close()

    assert capsys.readouterr().err == "\r\x1b[2K  1.0 % ░░░░░░░░░░░░░░░░░░░░░░░░ begin\r\x1b[2K"


def test_control_characters_of_a_plugin_cannot_drive_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\tc\nd\x9b31m é") == "a\\x1b]0;title\\x07b\tc\nd\\x9b31m é"


def test_an_error_is_one_line_that_says_where_what_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    say_error(Unavailable("no answer:\nrefused", where="127.0.0.1:1", hint="Start it"))

    assert capsys.readouterr().err == "error: 127.0.0.1:1: no answer: refused. Start it\n"


def test_a_table_in_a_pipe_is_tab_separated_and_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("name", "why"), [("a", "first\tor\nsecond"), ("b", "")])

    assert capsys.readouterr().out == "name\twhy\na\tfirst or second\nb\t\n"


def test_values_of_any_kind_become_json(capsys: pytest.CaptureFixture[str]) -> None:
    from pathlib import Path
    from types import MappingProxyType

    write_json({"path": Path("x"), "map": MappingProxyType({"a": 1})})

    assert capsys.readouterr().out == '{"path":"x","map":{"a":1}}\n'


def test_a_reader_that_is_gone_is_noticed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        with pytest.raises(ReaderGoneError):
            write_data("x")
