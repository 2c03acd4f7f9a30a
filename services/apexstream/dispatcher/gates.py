"""Limits that tasks share wherever they run: concurrency keys and rates. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from apexstream.core.scheduling import ConcurrencyKey
from apexstream.dispatcher.policy import Rate


@dataclass(slots=True)
class _Held:
    group: str
    limits: list[int] = field(default_factory=list)


class Gates:
    """Who holds which key, and how many starts each action has left."""

    def __init__(self, rates: Mapping[str, Rate]) -> None:
        self._held: dict[str, _Held] = {}
        self._rates = rates
        self._tokens: dict[str, tuple[float, int]] = {}  # action → tokens at a time

    def obstacle(self, action: str, keys: Iterable[ConcurrencyKey], now_us: int) -> str:
        """Why a task with these ``keys`` must not start now; empty if it may."""
        for wanted in keys:
            held = self._held.get(wanted.key)
            if held is None:
                continue
            if held.group != wanted.group:
                return f"key {wanted.key} is held by {held.group or 'tasks of no group'}"
            if len(held.limits) >= min(wanted.limit, *held.limits):
                return f"key {wanted.key} has {len(held.limits)} holders, its limit"
        if self.ready_at_us(action, now_us) > now_us:
            return f"{action} may start {self._rates[action].per_s:g} times a second"
        return ""

    def ready_at_us(self, action: str, now_us: int) -> int:
        """When the rate of ``action`` lets the next task start; now if it has none."""
        rate = self._rates.get(action)
        if rate is None:
            return now_us
        missing = 1.0 - self._left(action, rate, now_us)
        return now_us if missing <= 1e-9 else now_us + int(missing / rate.per_s * 1e6) + 1

    def start(self, action: str, keys: Iterable[ConcurrencyKey], now_us: int) -> None:
        """A task started."""
        self.hold(keys)
        rate = self._rates.get(action)
        if rate is not None:
            self._tokens[action] = self._left(action, rate, now_us) - 1.0, now_us

    def hold(self, keys: Iterable[ConcurrencyKey]) -> None:
        """A task holds its keys."""
        for key in keys:
            held = self._held.setdefault(key.key, _Held(key.group))
            held.limits.append(key.limit)

    def release(self, keys: Iterable[ConcurrencyKey]) -> None:
        """It no longer does."""
        for key in keys:
            held = self._held.get(key.key)
            if held is not None and key.limit in held.limits:
                held.limits.remove(key.limit)
                if not held.limits:
                    del self._held[key.key]

    def _left(self, action: str, rate: Rate, now_us: int) -> float:
        tokens, at_us = self._tokens.get(action, (float(rate.burst), now_us))
        return min(float(rate.burst), tokens + (now_us - at_us) / 1e6 * rate.per_s)
