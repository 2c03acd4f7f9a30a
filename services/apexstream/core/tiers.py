"""Priority tiers: names in the order in which waiting tasks are served, one Kafka topic each."""

import re
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from apexstream.core.errors import InvalidConfiguration, InvalidRequest

TIERS_MAX: Final = 16
TIER_PATTERN: Final = "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?"
USUAL: Final = "normal"  # the default tier wherever it is one of the tiers
_SETTING, _DEFAULT_SETTING = "APEX_TIERS", "APEX_TIER_DEFAULT"

Tier = Annotated[str, msgspec.Meta(pattern=f"^{TIER_PATTERN}$")]
"""A tier's name as records have it, which need not be one of the tiers that are configured now."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """The tiers of an installation by name, from the most to the least urgent, and the one of a task that names none."""

    names: tuple[Tier, ...]
    default: Tier

    def __post_init__(self) -> None:
        """Refuse tiers that cannot be served."""
        wrong = next((name for name in self.names if re.fullmatch(TIER_PATTERN, name) is None), None)
        if wrong is not None:
            hint = "Use up to 32 of a-z, 0-9 and hyphens inside"
            raise InvalidConfiguration(f"{wrong!r} is no name for a tier", where=_SETTING, hint=hint)
        if not 1 <= len(self.names) <= TIERS_MAX:
            raise InvalidConfiguration(f"{len(self.names)} tiers; there must be 1 to {TIERS_MAX}", where=_SETTING)
        if len(set(self.names)) < len(self.names):
            raise InvalidConfiguration("names a tier twice", where=_SETTING)
        if self.default not in self.names:
            what = (
                f"{self.default!r} is not a tier" if self.default else f"there is no tier {USUAL}, and no other default"
            )
            raise InvalidConfiguration(what, where=_DEFAULT_SETTING, hint=f"Use one of {', '.join(self.names)}")

    @classmethod
    def named(cls, text: str, default: str = "") -> "Tiers":
        """The tiers in ``text``, ``name,name,…``; without a ``default`` it is ``normal``, if that is one of them.

        Raises :class:`InvalidConfiguration`."""
        names = tuple(part.strip() for part in text.split(","))
        return cls(names, default or (USUAL if USUAL in names else ""))

    @property
    def highest(self) -> Tier:
        """The most urgent one."""
        return self.names[0]

    @property
    def lower(self) -> tuple[Tier, ...]:
        """All others."""
        return self.names[1:]

    def rank(self, name: Tier) -> int:
        """0 for the most urgent one."""
        return self.names.index(name)

    def served(self, name: Tier) -> Tier:
        """The tier in which a task of tier ``name`` is served: the least urgent, if that is not configured any more."""
        return name if name in self.names else self.names[-1]

    def check(self, name: str) -> Tier:
        """``name`` if a task may ask for it; raises :class:`InvalidRequest`."""
        if name not in self.names:
            raise InvalidRequest(f"{name[:40]!r} is not a tier", where="tier", hint=f"Use {', '.join(self.names)}")
        return name


DEFAULT_TIERS: Final = Tiers(("high", USUAL, "low"), USUAL)
