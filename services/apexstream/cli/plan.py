"""What the command line asked ``apexstream up`` to do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FirstRun:
    """What to run: the action, its ``-p`` arguments, how its chunks are shown, and whether to stop afterwards."""

    plugin: str
    action: str
    arguments: list[str]
    tier: str  # empty: the default one
    output: str
    once: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The options of the command: the gateway's port (None: as set), a first run, and whether to show timings."""

    port: int | None = None
    first: FirstRun | None = None
    timings: bool = False

    @property
    def once(self) -> bool:
        """Stop when the first run has ended."""
        return self.first is not None and self.first.once
