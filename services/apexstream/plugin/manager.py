"""Finds installed plugins by entry point and runs their actions; knows nothing of Kafka."""

import traceback
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from apexstream.core.errors import PluginFailed, UnknownAction
from apexstream.plugin.base import (
    ActionSpec,
    BasePlugin,
    CancellationToken,
    Params,
    ProgressCallback,
    specs_of,
)
from apexstream.plugin.iterate import iterate

ENTRY_POINT_GROUP = "apexstream.plugins"


class PluginManager:
    """The plugins of this environment, by name. A plugin that cannot be loaded is kept in ``broken``, with the reason."""

    def __init__(self, found: Iterable[EntryPoint] | None = None) -> None:
        self._plugins: dict[str, BasePlugin] = {}
        self._specs: dict[str, dict[str, ActionSpec]] = {}
        self._broken: dict[str, str] = {}
        for entry in sorted(entry_points(group=ENTRY_POINT_GROUP) if found is None else found, key=lambda e: e.name):
            self._load(entry)

    @property
    def plugins(self) -> Mapping[str, BasePlugin]:
        """Loaded plugins by name."""
        return self._plugins

    @property
    def broken(self) -> Mapping[str, str]:
        """Plugins that could not be loaded, with what went wrong and where."""
        return self._broken

    def actions(self) -> Iterable[tuple[str, ActionSpec]]:
        """Every action as (plugin name, spec)."""
        for name, specs in self._specs.items():
            for spec in specs.values():
                yield name, spec

    def add(self, name: str, plugin: BasePlugin) -> None:
        """Make ``plugin`` available under ``name`` without installing it."""
        self._specs[name] = {spec.name: spec for spec in specs_of(plugin)}
        self._plugins[name] = plugin

    def spec(self, plugin: str, action: str) -> ActionSpec:
        """What the action declares; :class:`UnknownAction` as :meth:`find`."""
        self.find(plugin, action)
        return self._specs[plugin][action]

    def streams(self, plugin: str, action: str) -> bool:
        """Whether the action yields chunks as it goes, rather than one result at the end."""
        return self.find(plugin, action).streams(action)

    def find(self, plugin: str, action: str) -> BasePlugin:
        """The plugin, if it has the action; else :class:`UnknownAction` naming what there is."""
        if plugin not in self._plugins:
            broken = self._broken.get(plugin)
            if broken:
                raise PluginFailed(
                    f"plugin {plugin} could not be loaded: {broken}", where=plugin, hint="Mend or reinstall it"
                )
            raise UnknownAction(f"no plugin named {plugin!r}", where="plugin", hint=_choices(self._plugins, "plugins"))
        if action not in self._specs[plugin]:
            raise UnknownAction(
                f"plugin {plugin} has no action {action!r}",
                where="action",
                hint=_choices(self._specs[plugin], "actions"),
            )
        return self._plugins[plugin]

    def validate(self, plugin: str, action: str, params: Params) -> None:
        """Raise :class:`UnknownAction` or :class:`InvalidParameters` for a call that could not run."""
        self.find(plugin, action).validate(action, params)

    async def run(
        self,
        plugin: str,
        action: str,
        params: Params | None = None,
        progress_callback: ProgressCallback | None = None,
        cancellation_token: CancellationToken | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Run an action here and yield what it yields, without Kafka and without checkpoints."""
        result = self.call(plugin, action, params or {}, progress_callback, cancellation_token)
        async with aclosing(iterate(result)) as chunks:
            async for chunk in chunks:
                yield chunk

    def call(
        self,
        plugin: str,
        action: str,
        params: Params,
        progress_callback: ProgressCallback | None = None,
        cancellation_token: CancellationToken | None = None,
    ) -> Any:
        """Validate and call an action; what it returns is for :func:`~apexstream.plugin.iterate.opened`."""
        found = self.find(plugin, action)
        found.validate(action, params)
        return found.execute_action_stream(action, params, progress_callback, cancellation_token)

    def _load(self, entry: EntryPoint) -> None:
        try:
            loaded = entry.load()
            self.add(entry.name, _instance(loaded, entry.name))
        except Exception as problem:  # whatever a plugin raises at import must not stop the others
            self._broken[entry.name] = describe_failure(problem)


def _instance(loaded: Any, name: str) -> BasePlugin:
    plugin = loaded() if isinstance(loaded, type) else loaded
    if not isinstance(plugin, BasePlugin):
        raise TypeError(f"entry point {name} names {type(plugin).__name__}, not a Plugin or a BasePlugin")
    return plugin


def describe_failure(problem: BaseException) -> str:
    """One line: the error and the innermost place it came from, without this machine's folders."""
    frames = traceback.extract_tb(problem.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(problem).__name__}: {problem}{place}"


def _choices(names: Iterable[str], what: str) -> str:
    known = ", ".join(sorted(names))
    return f"Known {what}: {known}" if known else f"There are no {what} here"
