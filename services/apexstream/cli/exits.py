"""What the exit status of every command means; ``docs/cli.md`` says the same to users."""

from enum import IntEnum

from apexstream.core.errors import (
    ApexError,
    Forbidden,
    InvalidConfiguration,
    InvalidRequest,
    LimitReached,
    Unauthenticated,
    Unavailable,
    UnknownAction,
    UnknownTask,
)


class ExitCode(IntEnum):
    """Statuses above 128 are 128 plus the number of the signal that a plain program would have died of."""

    OK = 0
    FAILED = 1  # the task failed, a check failed, a service stopped with an error
    USAGE = 2  # a wrong option, parameter or setting: repeating it is pointless
    UNKNOWN = 3  # no such plugin, action or task
    UNAVAILABLE = 4  # the gateway or Kafka does not answer: repeating it later may work
    REFUSED = 6  # no token, one that is not accepted, or one that does not allow this
    CANCELLED = 5  # the task was cancelled, and its receipt was seen
    INTERNAL = 70  # a defect of ApexStream itself
    INTERRUPTED = 130  # left on Ctrl-C; what became of the task was not waited for
    READER_GONE = 141  # whoever read standard output stopped reading
    TERMINATED = 143  # left on SIGTERM or SIGHUP


_BY_CLASS: tuple[tuple[type[ApexError], ExitCode], ...] = (
    (InvalidRequest, ExitCode.USAGE),
    (InvalidConfiguration, ExitCode.USAGE),
    (UnknownAction, ExitCode.UNKNOWN),
    (UnknownTask, ExitCode.UNKNOWN),
    (Unavailable, ExitCode.UNAVAILABLE),
    (Unauthenticated, ExitCode.REFUSED),
    (Forbidden, ExitCode.REFUSED),
    (LimitReached, ExitCode.UNAVAILABLE),
)


def exit_code_for(problem: ApexError) -> ExitCode:
    """The status of a command that ended with this error."""
    return next((code for kind, code in _BY_CLASS if isinstance(problem, kind)), ExitCode.FAILED)
