"""What a plugin process may use, and how long the runner waits for it."""

import os
import site
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import apexstream
from apexstream.runner.host.frames import Setup

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """Limits of one plugin process; None: no limit. ``memory_bytes`` is address space, which is more than what is used:
    every thread takes 8 MiB of it and more. ``processes`` counts all of the user's, and binds no root.

    ``environment`` is all that the process has. ``import_paths`` are folders to import from besides what is installed.
    """

    memory_bytes: int | None = 4096 * MIB
    cpu_s: int | None = None
    open_files: int | None = 1024
    file_bytes: int | None = 16_384 * MIB
    processes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    import_paths: tuple[str, ...] = ()

    def setup(self, plugin: str, entry: str) -> Setup:
        """The frame that tells the process."""
        return Setup(
            plugin=plugin,
            entry=entry,
            environment=dict(self.environment),
            memory_bytes=self.memory_bytes,
            cpu_s=self.cpu_s,
            open_files=self.open_files,
            file_bytes=self.file_bytes,
            processes=self.processes,
        )

    def interpreter_environment(self) -> dict[str, str]:
        """What the interpreter starts with; the process clears it before any plugin code runs."""
        own = str(Path(apexstream.__file__).parent.parent)
        paths = [*self.import_paths]
        if own not in {*site.getsitepackages(), site.getusersitepackages()}:
            paths.append(own)
        return {"PYTHONPATH": os.pathsep.join(paths)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Waiting times, in seconds."""

    start_timeout_s: float = 60.0  # from spawning until the plugin is loaded; and of a call for a process
    ping_s: float = 2.0  # between two questions whether a process still lives
    unresponsive_s: float = 30.0  # without an answer, then it is killed
    term_grace_s: float = 2.0  # between SIGTERM and SIGKILL
    backoff_s: float = 0.1  # before the second restart in a row; doubles from there
    backoff_max_s: float = 1.0  # of a plugin that could be loaded: its tasks wait, and have a patience of their own
    reload_max_s: float = 60.0  # of one that could not: trying costs as much as loading it
    stable_s: float = 10.0  # a process that lived this long is started again at once

    def restart_after_s(self, failures: int, *, loaded: bool) -> float:
        """How long to wait after so many failures in a row."""
        longest_s = self.backoff_max_s if loaded else self.reload_max_s
        return 0.0 if failures <= 1 else min(longest_s, self.backoff_s * 2.0 ** min(failures - 2, 30))
