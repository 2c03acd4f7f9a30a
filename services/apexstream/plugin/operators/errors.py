"""What operators raise on their own account. What a user's function or a source raises passes through as it is."""

from apexstream.plugin.errors import PermanentError, ResourceError, TransientError


class TimedOut(TransientError):
    """A source gave nothing in the time allowed."""

    code = "timed_out"


class LateElement(PermanentError):
    """An element came after everything that it belongs to was closed, and nobody said what to do with such."""

    code = "late_element"


class Uneven(PermanentError):
    """Sources that were to be equally long are not."""

    code = "uneven"


class Overflow(ResourceError):
    """A bound on what an operator holds was reached."""

    code = "overflow"


class Spent(PermanentError):
    """A source that can be read once was to be read again."""

    code = "spent"


class HubClosed(PermanentError):
    """The source of a consumer's stream was closed before its end."""

    code = "hub_closed"
