"""The error tree. A class says who must act; a message says what happened, where, and what to do.

``code`` is the stable word that users meet in JSON answers, close reasons and ``-o json`` output.
"""

from typing import ClassVar


class ApexError(Exception):
    """Base of every error that ApexStream raises on purpose.

    ``what`` happened, ``where`` (a path, a key, an address; may be empty) and ``hint`` (what to do; may be empty).
    """

    code: ClassVar[str] = "internal"

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.hint}" if self.hint else text

    def as_dict(self) -> dict[str, str]:
        """The JSON form that HTTP answers, frames and error chunks carry: ``code``, ``message``, ``where``, ``hint``."""
        fields = {"code": self.code, "message": self.what, "where": self.where, "hint": self.hint}
        return {name: value for name, value in fields.items() if value}


class InvalidRequest(ApexError):
    """The caller sent something that can never work; sending it again is pointless."""

    code = "bad_request"


class InvalidParameters(InvalidRequest):
    """An action's parameters do not fit its signature."""

    code = "invalid_parameters"


class UnknownAction(ApexError):
    """No such plugin, or no such action in it."""

    code = "unknown_action"


class UnknownTask(ApexError):
    """No task with this id is known."""

    code = "unknown_task"


class Unauthenticated(ApexError):
    """Nobody said who asks, or what they showed is not accepted: show a valid token and ask again."""

    code = "unauthenticated"


class Forbidden(ApexError):
    """Whoever asks is known and may not do this."""

    code = "forbidden"


class LimitReached(ApexError):
    """More than is allowed to one user, one socket or all of them: ask again after ``retry_after_s``."""

    code = "limit_reached"

    def __init__(self, what: str, *, where: str = "", hint: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(what, where=where, hint=hint)
        self.retry_after_s = retry_after_s


class InvalidChunk(ApexError):
    """A plugin yielded something that cannot become a chunk: not serialisable, or too large."""

    code = "invalid_chunk"


class InvalidConfiguration(ApexError):
    """A setting is missing, unknown or contradicts another; the process refuses to start."""

    code = "bad_configuration"


class PluginFailed(ApexError):
    """A plugin could not be imported, or raised while it ran."""

    code = "plugin_failed"


class Unavailable(ApexError):
    """Something we depend on does not answer; the same call may work later."""

    code = "unavailable"


class OutcomeUnknown(Unavailable):
    """An append was sent and never answered: it may or may not be in the log. Only reading the log tells."""

    code = "outcome_unknown"


class DataCorruption(ApexError):
    """Bytes in the log are not what was written; a reader stops here and never skips."""

    code = "data_corruption"


class Erased(ApexError):
    """The stream's content was erased on purpose; nothing brings it back."""

    code = "erased"


class Expired(ApexError):
    """The stream was kept as long as was asked for, and is gone."""

    code = "expired"


class ChunkDecodeError(ApexError):
    """Bytes that are not a valid record of a known schema.

    ``reason`` is one of: ``empty``, ``truncated``, ``bad_length``, ``bad_varint``, ``bad_utf8``, ``bad_union``,
    ``bad_enum``, ``bad_logical``, ``out_of_range``, ``trailing_bytes``, ``unknown_schema``, ``sequence``,
    ``auth_failed``, ``too_large``.
    """

    code = "undecodable"

    def __init__(self, reason: str, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(f"{what} ({reason})", where=where, hint=hint)
        self.reason = reason
