"""What a dashboard is made of, and how it becomes Grafana's JSON (through ``grafana-foundation-sdk``).

Metrics are named by their declarations, so that a renamed metric cannot be forgotten here.
"""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, text, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    GraphGradientMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    VariableRefresh,
)
from grafana_foundation_sdk.models.text import TextMode as Markup

from apexstream.runtime.instruments import Counter, Gauge, Histogram

TAG = "apexstream"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
RATE = "[$__rate_interval]"
COLUMNS, HEIGHT = 24, 8


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and the legend of its series."""

    expr: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. ``unit`` is Grafana's (``s``, ``bytes``, ``ops``, ``short`` …); ``width`` of 24 columns."""

    title: str
    meaning: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    number: bool = False  # the newest value instead of a curve


@dataclass(frozen=True, slots=True)
class Note:
    """Text between the panels."""

    markdown: str
    width: int = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel | Note, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A dashboard. ``variables`` are (name, the metric whose label of that name gives the choices)."""

    uid: str
    title: str
    meaning: str
    rows: tuple[Row, ...]
    variables: tuple[tuple[str, Counter | Gauge | Histogram], ...] = ()
    boxes: tuple[tuple[str, str], ...] = field(default=())  # text to be typed in: (name, what it is at first)

    def panels(self) -> list[Panel]:
        """All that ask Prometheus."""
        return [panel for row in self.rows for panel in row.panels if isinstance(panel, Panel)]


def rate(metric: Counter, *by: str, where: str = "") -> str:
    """Events a second, added up by labels."""
    return _sum(f"rate({metric.declaration.name}{_braces(where)}{RATE})", by)


def total(metric: Gauge, *by: str, where: str = "") -> str:
    """A gauge over all processes, added up by labels."""
    return _sum(metric.declaration.name + _braces(where), by)


def quantile(q: float, metric: Histogram, *by: str, where: str = "", over: str = RATE) -> str:
    """The value below which a share ``q`` of the observations lies."""
    buckets = _sum(f"rate({metric.declaration.name}_bucket{_braces(where)}{over})", ("le", *by))
    return f"histogram_quantile({q}, {buckets})"


def observations(metric: Histogram, *by: str, where: str = "") -> str:
    """Observations a second."""
    return _sum(f"rate({metric.declaration.name}_count{_braces(where)}{RATE})", by)


def spread(metric: Histogram, *by: str, where: str = "", over: str = RATE) -> tuple[Query, ...]:
    """Median and 99th percentile, with exemplars; of what happens seldom ``over`` a longer time."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    return (
        Query(quantile(0.5, metric, *by, where=where, over=over), f"p50 {legend}".strip()),
        Query(quantile(0.99, metric, *by, where=where, over=over), f"p99 {legend}".strip(), exemplars=True),
    )


def _sum(expr: str, by: tuple[str, ...]) -> str:
    return f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"


def _braces(where: str) -> str:
    return f"{{{where}}}" if where else ""


def render(board: Board) -> str:
    """The dashboard's JSON, the same for the same board."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.meaning)
        .tags([TAG])
        .editable()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .link(
            dashboard.DashboardLink("ApexStream")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .keep_time(True)
            .include_vars(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for name, metric in board.variables:
        made.with_variable(
            dashboard.QueryVariable(name)
            .query(f"label_values({metric.declaration.name}, {name})")
            .datasource(SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    for name, value in board.boxes:
        made.with_variable(dashboard.TextBoxVariable(name).default_value(value))
    ids = count(1)
    for row in board.rows:
        made.with_row(dashboard.Row(row.title).id(next(ids)))
        for panel in row.panels:
            made.with_panel((_note(panel) if isinstance(panel, Note) else _panel(panel)).id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _note(note: Note) -> Any:
    return text.Panel().title("").mode(Markup.MARKDOWN).content(note.markdown).span(note.width).height(4)


def _panel(panel: Panel) -> Any:
    made: Any = stat.Panel() if panel.number else timeseries.Panel()
    made.title(panel.title).description(panel.meaning).datasource(SOURCE).unit(panel.unit)
    made.span(panel.width).height(HEIGHT // 2 if panel.number else HEIGHT)
    if panel.number:
        made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    else:
        made.fill_opacity(8).gradient_mode(GraphGradientMode.OPACITY).min(0)
        made.legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        made.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    for number, query in enumerate(panel.queries):
        made.with_target(_target(query, "ABCDEFGH"[number], panel.number))
    return made


def _target(query: Query, ref: str, instant: bool) -> Any:
    made = prometheus.Dataquery().ref_id(ref).expr(query.expr).legend_format(query.legend or "__auto")
    if instant:
        return made.instant()
    return made.range().exemplar(query.exemplars)
