"""``apexstream plugins list``: what is installed here, without asking anything else."""

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import say, write_json
from apexstream.cli.table import write_table
from apexstream.plugin import PluginManager
from apexstream.runtime.logs import configure_logs
from apexstream.runtime.settings import load_settings


def list_plugins(output: str) -> ExitCode:
    """Show every action of every plugin; a broken plugin is one line with the reason, and makes the status 1."""
    configure_logs(load_settings(), service="plugins", own_errors=True)
    plugins = PluginManager()
    show = _as_json if output == "json" else _as_table
    show(plugins)
    return ExitCode.FAILED if plugins.broken else ExitCode.OK


def _as_json(plugins: PluginManager) -> None:
    for plugin, spec in plugins.actions():
        write_json(
            {
                "plugin": plugin,
                "action": spec.name,
                "streams": plugins.streams(plugin, spec.name),
                "summary": spec.summary,
                "params_schema": spec.params_schema,
            }
        )
    for plugin, why in plugins.broken.items():
        write_json({"plugin": plugin, "broken": why})


def _as_table(plugins: PluginManager) -> None:
    rows = [
        (plugin, spec.name, "yes" if plugins.streams(plugin, spec.name) else "no", spec.summary)
        for plugin, spec in plugins.actions()
    ]
    rows += [(plugin, "-", "-", f"broken: {why}") for plugin, why in plugins.broken.items()]
    write_table(("plugin", "action", "streams", "summary"), rows)
    if not rows:
        say("no plugin is installed here; a plugin is a package with an entry point in group apexstream.plugins")
