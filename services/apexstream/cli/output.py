"""The one way to standard output and standard error that commands use."""

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from apexstream.core.errors import ApexError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class ReaderGoneError(Exception):
    """Nobody reads standard output any more: stop quietly."""


def write_data(text: str) -> None:
    """Write ``text`` and a newline to standard output, at once; raises :class:`ReaderGoneError`."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes standard output once more when it exits: that must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ReaderGoneError from None


def write_json(value: Any) -> None:
    """Write a value as one line of JSON."""
    write_data(msgspec.json.encode(value, enc_hook=_plain).decode())


def write_json_document(value: Any) -> None:
    """Write a value as indented JSON, for answers that are read as a whole."""
    write_data(msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2).decode())


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def say(text: str) -> None:
    """Tell the person at the terminal something: one line on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def say_error(problem: ApexError | str) -> None:
    """``error: where: what. hint`` on standard error, one line whatever the message holds."""
    say("error: " + printable(" ".join(str(problem).split())))


def printable(text: str) -> str:
    """``text`` with control characters spelled out, so that what a plugin says cannot drive a terminal."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
