"""How the frames of a stream look: JSON lines, or text with progress on standard error."""

import shutil
import sys
import time
from typing import Any, Protocol

import msgspec

from apexstream.cli.output import printable, say, write_data
from apexstream.client import Cancelled, Complete, Error, Frame, Progress, ProgressReport, Rewind, Update, encode_frame

REDRAW_S = 0.1  # a progress bar is drawn at most this often …
PROGRESS_LINE_S = 1.0  # … and without a terminal a progress line at most this often
BAR_CELLS = 24

_CLEAR_LINE = "\r\x1b[2K"


class View(Protocol):
    """Shows the frames of one stream."""

    def show(self, frame: Frame) -> None:
        """Show one frame; raises :class:`~apexstream.cli.output.ReaderGoneError`."""
        ...

    def close(self) -> None:
        """Leave the terminal as a shell expects it. May be called twice."""
        ...


class JsonView:
    """One frame a line, as the gateway sent it."""

    def show(self, frame: Frame) -> None:
        """Write the frame."""
        write_data(encode_frame(frame).decode())

    def close(self) -> None:
        """Nothing to leave behind."""


class TextView:
    """Chunks as text on standard output; progress, rewinds and the end on standard error."""

    def __init__(self, *, live: bool | None = None) -> None:
        """``live``: draw a progress bar in place; by default if standard error is a terminal."""
        self._live = sys.stderr.isatty() if live is None else live
        self._terminal = sys.stdout.isatty()
        self._shown_at = -PROGRESS_LINE_S
        self._bar = ""

    def show(self, frame: Frame) -> None:
        """Write a chunk's text, or say what happened to the stream."""
        match frame:
            case Update():
                self._chunk(chunk_text(frame))
            case Progress(progress=report):
                self._progress(report)
            case Rewind(seq=seq):
                self.close()
                say(f"the task was started again: what follows replaces everything from seq {seq} on")
            case Complete() | Error() | Cancelled():
                self.close()

    def close(self) -> None:
        """Remove the progress bar."""
        if self._bar:
            self._draw(_CLEAR_LINE)
            self._bar = ""

    def _chunk(self, text: str) -> None:
        if not self._terminal:
            write_data(text)
            return
        # Both outputs share the screen: the bar makes room and comes back below.
        if self._bar:
            self._draw(_CLEAR_LINE)
        write_data(printable(text))
        if self._bar:
            self._draw(self._bar)

    def _progress(self, report: ProgressReport) -> None:
        now = time.monotonic()
        finished = report.percentage is not None and report.percentage >= 100
        if now - self._shown_at < (REDRAW_S if self._live else PROGRESS_LINE_S) and not finished:
            return
        self._shown_at = now
        if self._live:
            self._bar = progress_text(report, bar=True)[: shutil.get_terminal_size().columns - 1]
            self._draw(_CLEAR_LINE + self._bar)
        else:
            say(progress_text(report, bar=False))

    def _draw(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def view_for(output: str, *, live: bool | None = None) -> View:
    """The view for ``-o json`` or ``-o text``."""
    return JsonView() if output == "json" else TextView(live=live)


def chunk_text(frame: Update) -> str:
    """A chunk as text, without a newline at its end.

    A string as it is; of an object with a string under ``text`` that string; of bytes their type and size; anything else
    as JSON on one line.
    """
    if frame.encoding:
        return f"<{frame.content_type or 'bytes'}, {len(frame.value):,} bytes>"
    text = _text_of(frame.data)
    return msgspec.json.encode(frame.data).decode() if text is None else text.removesuffix("\n")


def _text_of(data: Any) -> str | None:
    if isinstance(data, dict):
        data = data.get("text")
    return data if isinstance(data, str) else None


def progress_text(report: ProgressReport, *, bar: bool) -> str:
    """One line about how far a task is."""
    words = [report.message or report.status or "running"]
    if report.percentage is not None:
        share = min(max(report.percentage, 0.0), 100.0)
        words.insert(0, f"{share:5.1f} %")
        if bar:
            full = round(share / 100 * BAR_CELLS)
            words.insert(1, "█" * full + "░" * (BAR_CELLS - full))
    return printable(" ".join(" ".join(words).split("\n")))
