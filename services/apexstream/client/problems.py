"""Errors as JSON carries them, and their way back to the exception classes of :mod:`apexstream.core.errors`."""

from collections.abc import Iterator

import msgspec

from apexstream.core.errors import ApexError, ChunkDecodeError


class RemoteError(ApexError):
    """A server reported a code that this version has no class for; :attr:`remote_code` keeps the word."""

    def __init__(self, remote_code: str, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what, where=where, hint=hint)
        self.remote_code = remote_code

    def as_dict(self) -> dict[str, str]:
        """As every error, with the code that the server gave."""
        return {**super().as_dict(), "code": self.remote_code}


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON form of an error: a stable ``code``, what happened, where, and what to do."""

    code: str = "internal"
    message: str = ""
    where: str = ""
    hint: str = ""

    def exception(self) -> ApexError:
        """The matching exception, ready to be raised."""
        what = self.message or self.code
        kind = _BY_CODE.get(self.code)
        if kind is None:
            return RemoteError(self.code, what, where=self.where, hint=self.hint)
        return kind(what, where=self.where, hint=self.hint)


def _tree(root: type[ApexError]) -> Iterator[type[ApexError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


# ChunkDecodeError needs a reason, which its JSON form does not carry.
_BY_CODE = {
    kind.code: kind
    for kind in _tree(ApexError)
    if kind.__module__ == ApexError.__module__ and kind is not ChunkDecodeError
}
