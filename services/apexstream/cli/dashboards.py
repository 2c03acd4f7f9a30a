"""``apexstream dashboards``: the committed dashboards at a Grafana, through its HTTP API.

``grafana-client`` replaces ``urllib3`` for the whole environment that it is installed in, so it is an extra of its own
(``apexstream[grafana]``), to be installed where nothing else lives: ``make grafana``.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, TypeVar

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import say, write_data
from apexstream.core.errors import ApexError, InvalidConfiguration, Unavailable
from apexstream.runtime.settings import Settings, load_settings

TIMEOUT_S = 15.0
SOURCE_VARIABLE = "datasource"
_THEIRS = frozenset({"id", "version", "iteration"})  # what Grafana itself numbers

T = TypeVar("T")
Dashboard = dict[str, Any]


class Grafana(Protocol):
    """What is asked of a Grafana."""

    def folder(self, title: str, *, make: bool) -> str:
        """The folder's uid; empty if there is none and it is not to be made."""

    def source(self, name: str) -> str:
        """The uid of the Prometheus data source of this name."""

    def dashboard(self, uid: str) -> tuple[Dashboard, str] | None:
        """A dashboard and the uid of its folder."""

    def push(self, dashboard: Dashboard, folder: str) -> None:
        """Make or replace it."""


def push_dashboards(files: Path, folder: str, source: str) -> ExitCode:
    """Make the Grafana's dashboards what the files say; those that agree are left alone."""
    grafana, ours = _connected(load_settings()), read_dashboards(files)
    wanted = with_source(ours, source, grafana.source(source))
    uid = grafana.folder(folder, make=True)
    changed = [dashboard for dashboard in wanted if differences(dashboard, grafana.dashboard(dashboard["uid"]), uid)]
    for dashboard in changed:
        grafana.push(dashboard, uid)
        write_data(f"{dashboard['uid']}: pushed")
    say(f"{len(changed)} of {len(wanted)} dashboards were pushed to folder {folder!r}")
    return ExitCode.OK


def diff_dashboards(files: Path, folder: str, source: str) -> ExitCode:
    """Show what differs; status 1 if anything does."""
    grafana, ours = _connected(load_settings()), read_dashboards(files)
    wanted = with_source(ours, source, grafana.source(source))
    uid = grafana.folder(folder, make=False)
    found = {each["uid"]: differences(each, grafana.dashboard(each["uid"]), uid) for each in wanted}
    for name, lines in found.items():
        for line in lines:
            write_data(f"{name}: {line}")
    if not any(found.values()):
        say(f"all {len(wanted)} dashboards are as declared")
    return ExitCode.FAILED if any(found.values()) else ExitCode.OK


def read_dashboards(files: Path) -> list[Dashboard]:
    """The dashboards in a folder of JSON files; :class:`InvalidConfiguration` if there are none, or one is no dashboard."""
    found = []
    for path in sorted(files.glob("*.json")):
        try:
            dashboard = json.loads(path.read_bytes())
            found.append({**dashboard, "uid": str(dashboard["uid"])})
        except (ValueError, TypeError, KeyError) as problem:
            raise InvalidConfiguration(f"no dashboard with a uid: {problem!r}", where=str(path)) from None
    if not found:
        raise InvalidConfiguration(
            "no dashboards here",
            where=str(files),
            hint="Name the folder with --files; a checkout has them in dashboards/",
        )
    return found


def with_source(dashboards: list[Dashboard], name: str, uid: str) -> list[Dashboard]:
    """The same, with the data source called ``name`` chosen."""
    chosen = deepcopy(dashboards)
    for dashboard in chosen:
        for variable in dashboard.get("templating", {}).get("list", ()):
            if variable.get("name") == SOURCE_VARIABLE:
                variable["current"] = {"selected": True, "text": name, "value": uid}
    return chosen


def differences(wanted: Dashboard, held: tuple[Dashboard, str] | None, folder: str) -> list[str]:
    """What is different at Grafana, a line each."""
    if held is None:
        return ["is missing"]
    theirs, where = held
    lines = [] if where == folder else ["is in another folder"]
    keys = sorted((wanted.keys() | theirs.keys()) - _THEIRS)
    return lines + list(_changed({key: wanted.get(key) for key in keys}, {key: theirs.get(key) for key in keys}, ""))


def _changed(ours: Any, theirs: Any, place: str) -> Iterator[str]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from _changed(ours.get(key), theirs.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _changed(one, other, f"{place}[{number}]")
    elif ours != theirs:
        yield f"{place} differs"


def _connected(settings: Settings) -> Grafana:
    try:
        import grafana_client
    except ImportError:
        raise InvalidConfiguration(
            "this needs grafana-client, which is not installed",
            where="apexstream[grafana]",
            hint="It replaces urllib3 wherever it is installed: give it an environment of its own, `make grafana`",
        ) from None
    if not settings.grafana_url:
        raise InvalidConfiguration("no Grafana is named", where="GRAFANA_URL", hint="http://127.0.0.1:3000")
    token = None
    if settings.grafana_token_file is not None:
        try:
            token = settings.grafana_token_file.read_text("utf-8").strip()
        except OSError as problem:
            raise InvalidConfiguration(
                problem.strerror or str(problem), where=f"GRAFANA_TOKEN_FILE {settings.grafana_token_file}"
            ) from None
    api = grafana_client.GrafanaApi.from_url(settings.grafana_url, credential=token, timeout=TIMEOUT_S)
    return _Api(api, settings.grafana_url)


class _Api:
    """A :class:`Grafana`; its errors are told as ours."""

    def __init__(self, api: Any, url: str) -> None:
        self._api = api
        self._url = url

    def folder(self, title: str, *, make: bool) -> str:
        folders = self._call(self._api.folder.get_all_folders)
        uid = next((str(each["uid"]) for each in folders if each["title"] == title), "")
        return str(self._call(lambda: self._api.folder.create_folder(title))["uid"]) if make and not uid else uid

    def source(self, name: str) -> str:
        found = self._found(lambda: self._api.datasource.get_datasource_by_name(name))
        if found is None:
            raise InvalidConfiguration(
                f"there is no data source {name!r}",
                where=self._url,
                hint="Make it in Grafana, or name yours with --source",
            )
        if found["type"] != "prometheus":
            raise InvalidConfiguration(
                f"data source {name!r} is of type {found['type']}, not prometheus", where=self._url
            )
        return str(found["uid"])

    def dashboard(self, uid: str) -> tuple[Dashboard, str] | None:
        found = self._found(lambda: self._api.dashboard.get_dashboard(uid))
        return None if found is None else (found["dashboard"], str(found["meta"].get("folderUid", "")))

    def push(self, dashboard: Dashboard, folder: str) -> None:
        told = {
            "dashboard": {**dashboard, "id": None},
            "folderUid": folder,
            "overwrite": True,
            "message": "apexstream dashboards push",
        }
        self._call(lambda: self._api.dashboard.update_dashboard(told))

    def _found(self, ask: Callable[[], T]) -> T | None:
        from grafana_client.client import GrafanaClientError

        try:
            return self._call(ask)
        except _Refused as problem:
            if isinstance(problem.__cause__, GrafanaClientError) and problem.status == 404:
                return None
            raise

    def _call(self, ask: Callable[[], T]) -> T:
        from grafana_client.client import GrafanaException
        from niquests.exceptions import RequestException

        try:
            return ask()
        except GrafanaException as problem:
            raise _refusal(problem.status_code, str(problem.message), self._url) from problem
        except (RequestException, OSError) as problem:
            raise Unavailable(
                f"Grafana does not answer: {problem}", where=self._url, hint="Check GRAFANA_URL"
            ) from problem


class _Refused(ApexError):
    """Grafana does not do what it was asked."""

    code = "refused"
    status = 0


def _refusal(status: int, message: str, url: str) -> ApexError:
    if status in {401, 403}:
        return InvalidConfiguration(
            f"Grafana refuses the token: {message}",
            where="GRAFANA_TOKEN_FILE",
            hint="It needs a service account that may read data sources and write dashboards and folders",
        )
    if status == 0 or status >= 500:
        return Unavailable(f"Grafana fails with {status}: {message}", where=url)
    refused = _Refused(f"Grafana refuses with {status}: {message}", where=url)
    refused.status = status
    return refused
