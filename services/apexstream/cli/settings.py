"""``apexstream settings``: every setting, from the same declarations that the program reads."""

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import write_json
from apexstream.cli.table import write_table
from apexstream.runtime.settings import SettingInfo, describe_settings, load_settings


def list_settings(output: str) -> ExitCode:
    """Show name, present value and meaning of all settings."""
    known = describe_settings(load_settings())
    if output == "json":
        for setting in known:
            write_json(setting)
    else:
        write_table(("setting", "value", "default", "meaning"), map(_row, known))
    return ExitCode.OK


def _row(setting: SettingInfo) -> tuple[str, str, str, str]:
    return (setting.name, setting.value or '""', setting.default or '""', setting.description)
