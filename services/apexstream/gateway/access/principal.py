"""Who asks and what they may do. Pure.

A scope is ``<verb>`` or ``<verb>:<pattern>``, the pattern a whole name or a prefix that ends in ``*``:
``read:reports-*``, ``submit:corpus.*``, ``operate``. The name is ``<plugin>.<action>`` for ``submit``, else a stream's id.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from apexstream.core.errors import Forbidden

SCOPES_MAX: Final = 200
ANY_TENANT: Final = "*"  # nobody's name: a token cannot name it


class Verb(StrEnum):
    """What a scope allows."""

    SUBMIT = "submit"
    READ = "read"
    WRITE = "write"  # append to a stream from outside
    CONTROL = "control"  # cancel, pause, resume, reschedule
    ERASE = "erase"
    OPERATE = "operate"  # dead letters, the queue


def sees(tenant: str, owner: str | None) -> bool:
    """True if what belongs to ``owner`` (None: to nobody that is known) is also there for ``tenant``."""
    return owner is not None and tenant in {ANY_TENANT, owner}


@dataclass(frozen=True, slots=True)
class Scope:
    """One verb on all names that fit ``pattern``."""

    verb: Verb
    pattern: str = "*"

    def covers(self, verb: Verb, name: str | None) -> bool:
        """True if this allows ``verb`` on ``name``; without a name, on anything at all."""
        if verb is not self.verb:
            return False
        if name is None or self.pattern == "*":
            return True
        return name.startswith(self.pattern[:-1]) if self.pattern.endswith("*") else name == self.pattern

    def __str__(self) -> str:
        return str(self.verb) if self.pattern == "*" else f"{self.verb}:{self.pattern}"


EVERYTHING: Final = tuple(Scope(verb) for verb in Verb)
_VERBS: Final = {str(verb): verb for verb in Verb}


def read_scopes(words: Iterable[str]) -> tuple[Scope, ...]:
    """The scopes among ``words``; those of other services (``openid``, ``email``) are left out."""
    scopes = []
    for word in words:
        name, colon, pattern = word.partition(":")
        verb = _VERBS.get(name)
        if verb is not None and (pattern or not colon) and "*" not in pattern[:-1]:
            scopes.append(Scope(verb, pattern or "*"))
    return tuple(scopes[:SCOPES_MAX])


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks: ``subject`` of ``tenant``, until ``expires`` (seconds since the epoch)."""

    subject: str
    tenant: str
    scopes: tuple[Scope, ...]
    expires: float

    def may(self, verb: Verb, name: str | None = None) -> bool:
        """True if a scope allows ``verb`` on ``name``; without a name, on anything at all."""
        return any(scope.covers(verb, name) for scope in self.scopes)

    def require(self, verb: Verb, name: str | None = None) -> None:
        """Raise :class:`Forbidden` unless a scope allows it. Says nothing of whether ``name`` exists."""
        if not self.may(verb, name):
            wanted = verb if name is None else f"{verb}:{name}"
            raise Forbidden(
                f"{self.subject} may not {verb} this", where="scope", hint=f"The token needs the scope {wanted}"
            )

    @property
    def home(self) -> str:
        """The tenant of what this principal makes."""
        return "" if self.tenant == ANY_TENANT else self.tenant

    @property
    def known(self) -> bool:
        """False for whoever comes to a gateway that asks nobody who they are."""
        return self.tenant != ANY_TENANT

    @property
    def user(self) -> str:
        """Whose limits count."""
        return f"{self.tenant}/{self.subject}"


OPEN: Final = Principal(subject="anonymous", tenant=ANY_TENANT, scopes=EVERYTHING, expires=math.inf)
