"""The page of metrics: what the cells hold, in Prometheus' text format or OpenMetrics (which carries the exemplars)."""

import platform
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as Sample

from apexstream import __version__
from apexstream.runtime.instruments import Counter, Declared, Exemplar, Gauge, Histogram, Spread
from apexstream.runtime.probes import Render

WORKER = "worker"


def renderer(declared: Declared, *, service: str) -> Render:
    """Makes the page of this process' metrics, those of the process itself (CPU, memory, files) included."""
    own = CollectorRegistry(auto_describe=False)
    own.register(_Cells(declared, service))
    ProcessCollector(registry=own)
    GCCollector(registry=own)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_All(own, declared))

    def render(accept: str) -> tuple[bytes, str]:
        encoder, content_type = choose_encoder(accept)
        return encoder(registry), content_type

    return render


class _Cells(Collector):
    """Reads the cells at every scrape."""

    def __init__(self, declared: Declared, service: str) -> None:
        self._declared = declared
        self._service = service

    def describe(self) -> list[Family]:
        return []

    def collect(self) -> Iterator[Family]:
        info = GaugeMetricFamily(
            "apexstream_build_info", "What runs here; always 1.", labels=("service", "version", "python")
        )
        info.add_metric((self._service, __version__, platform.python_version()), 1)
        yield info
        for metric in self._declared.all():
            yield family(metric)


class _All(Collector):
    """This process' metrics, and those of the processes beside it with a label that tells which."""

    def __init__(self, own: CollectorRegistry, declared: Declared) -> None:
        self._own = own
        self._declared = declared

    def describe(self) -> list[Family]:
        return []

    def collect(self) -> Iterator[Family]:
        families = {family.name: family for family in self._own.collect()}
        for pages in self._declared.beside:
            for worker, page in pages().items():
                for found in text_string_to_metric_families(page):  # type: ignore[no-untyped-call]
                    known = families.setdefault(found.name, Family(found.name, found.documentation, found.type))
                    known.samples += [
                        sample._replace(labels={**sample.labels, WORKER: worker}) for sample in found.samples
                    ]
        yield from families.values()


def family(metric: Counter | Gauge | Histogram) -> Family:
    """One metric as it stands now."""
    told = metric.declaration
    if isinstance(metric, Histogram):
        histogram = HistogramMetricFamily(told.name, told.meaning, labels=told.labels)
        for labels, spread in metric.cells():
            histogram.add_metric(labels, _buckets(spread), spread.sum)
        return histogram
    if isinstance(metric, Gauge):
        gauge = GaugeMetricFamily(told.name, told.meaning, labels=told.labels)
        for labels, value in metric.values().items():
            gauge.add_metric(labels, value)
        return gauge
    counter = CounterMetricFamily(told.name, told.meaning, labels=told.labels)
    for labels, cell in metric.cells():
        counter.add_metric(labels, cell.value)
    return counter


Bucket = tuple[str, float] | tuple[str, float, Sample]


def _buckets(spread: Spread) -> list[Bucket]:
    names = [*(repr(float(bound)) for bound in spread.bounds), "+Inf"]
    counts = accumulate(list(spread.counts))
    return [_bucket(*each, spread.exemplars.get(number)) for number, each in enumerate(zip(names, counts, strict=True))]


def _bucket(name: str, count: float, exemplar: Exemplar | None) -> Bucket:
    if exemplar is None:
        return name, count
    return name, count, Sample({"trace_id": exemplar.trace_id}, exemplar.value, exemplar.at_s)
