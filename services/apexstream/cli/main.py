"""Runs a command line and turns however it ends into an exit status and at most one line of error."""

import os
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from apexstream.cli.app import app
from apexstream.cli.exits import ExitCode, exit_code_for
from apexstream.cli.output import ReaderGoneError, say, say_error
from apexstream.core.errors import ApexError


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Run ``arguments`` (the process's own by default) and return the exit status."""
    try:
        ended = app(arguments, prog_name="apexstream", standalone_mode=False)
    except TyperException as problem:
        say_error(_usage(problem))
        return problem.exit_code
    except ApexError as problem:
        _say_traceback()
        say_error(problem)
        return exit_code_for(problem)
    except ReaderGoneError:
        return ExitCode.READER_GONE
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception as problem:  # the last place that can say it in one line
        _say_traceback()
        say_error(
            f"apexstream: {type(problem).__name__}: {problem}. "
            "This is a defect; APEX_LOG_LEVEL=debug shows where, please report it"
        )
        return ExitCode.INTERNAL
    return ended if isinstance(ended, int) else ExitCode.OK


def _usage(problem: TyperException) -> str:
    context = getattr(problem, "ctx", None)
    command = context.command_path if context is not None else "apexstream"
    return f"{command}: {problem.format_message().rstrip('.')}. See `{command} --help`"


def _say_traceback() -> None:
    # Read here, not from the settings: they may be what is wrong.
    if os.environ.get("APEX_LOG_LEVEL", "").lower() == "debug":
        say(traceback.format_exc().rstrip())


def main() -> None:
    """The ``apexstream`` program."""
    sys.exit(run_command_line())
