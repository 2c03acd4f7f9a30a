"""What metrics are counted in, and the page that Prometheus reads."""

import threading

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from apexstream.runtime.exposition import renderer
from apexstream.runtime.instruments import LABEL_SETS_MAX, Declared, Exemplar

TEXT, OPENMETRICS = "text/plain", "application/openmetrics-text; version=1.0.0"


def samples(declared: Declared, accept: str = TEXT) -> dict[tuple[str, tuple[str, ...]], float]:
    body, _ = renderer(declared, service="test")(accept)
    read = read_openmetrics if accept == OPENMETRICS else read_text
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in read(body.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_what_was_counted_is_on_the_page(accept: str) -> None:
    declared = Declared()
    declared.counter("eaten_total", "cakes", "Cakes.", "kind").of("plum").value += 3
    declared.gauge("left", "cakes", "Cakes.").of().value = 2
    spread = declared.histogram("size_bytes", "bytes", "Size.", bounds=(1.0, 5.0)).of()
    spread.observe(0.5)
    spread.observe(5.0, times=2)
    spread.observe(9.0)

    got = samples(declared, accept)

    assert got["eaten_total", ("plum",)] == 3
    assert got["left", ()] == 2
    assert [got["size_bytes_bucket", (bound,)] for bound in ("1.0", "5.0", "+Inf")] == [1, 3, 4]
    assert (got["size_bytes_count", ()], got["size_bytes_sum", ()]) == (4, 19.5)


def test_an_exemplar_stands_in_the_bucket_of_its_value() -> None:
    declared = Declared()
    spread = declared.histogram("wait_seconds", "seconds", "Wait.", bounds=(1.0, 5.0)).of()
    spread.exemplify(Exemplar("a" * 32, 0.1, 1.0))
    spread.exemplify(Exemplar("b" * 32, 3.0, 2.0))
    spread.exemplify(Exemplar("c" * 32, 4.0, 3.0))

    body, content_type = renderer(declared, service="test")(OPENMETRICS)

    families = {family.name: family for family in read_openmetrics(body.decode())}
    shown = [sample.exemplar for sample in families["wait_seconds"].samples if sample.exemplar]
    assert [(each.labels["trace_id"], each.value) for each in shown] == [("a" * 32, 0.1), ("c" * 32, 4.0)]
    assert content_type.startswith("application/openmetrics-text")


def test_a_gauge_that_is_read_adds_up_its_readers_until_they_are_gone() -> None:
    declared = Declared()
    gauge = declared.gauge("waiting", "tasks", "Waiting.", "tier")
    gauge.read(lambda: 2, "high")
    forget = gauge.read(lambda: 5, "high")
    gauge.read(lambda: 1 / 0, "low")

    before = gauge.values()
    forget()
    forget()

    assert (before, gauge.values()) == ({("high",): 7}, {("high",): 2})


def test_labels_without_end_are_counted_together() -> None:
    declared = Declared()
    counter = declared.counter("asked_total", "questions", "Asked.", "who", "what")
    for number in range(LABEL_SETS_MAX + 50):
        counter.of(str(number), "x").value += 1

    cells = dict(counter.cells())

    assert len(cells) == LABEL_SETS_MAX + 1
    assert cells["other", "other"].value == 50


def test_a_wrong_number_of_labels_is_refused() -> None:
    declared = Declared()
    counter = declared.counter("asked_total", "questions", "Asked.", "who")

    with pytest.raises(TypeError, match=r"asked_total has the labels \('who',\)"):
        counter.of()


def test_a_metric_is_declared_once() -> None:
    declared = Declared()
    declared.gauge("left", "cakes", "Cakes.")

    with pytest.raises(ValueError, match="left is declared twice"):
        declared.counter("left", "cakes", "Cakes.")


def test_a_scrape_meets_cells_that_come_and_go() -> None:
    declared = Declared()
    counter = declared.counter("asked_total", "questions", "Asked.", "who")
    gauge = declared.gauge("open", "questions", "Open.", "who")
    over = threading.Event()

    def work() -> None:
        number = 0
        while not over.is_set():
            number += 1
            counter.of(str(number % 700)).value += 1
            gauge.read(lambda: 1, str(number % 50))()

    working = threading.Thread(target=work)
    working.start()
    try:
        sums = [sum(v for (name, _), v in samples(declared).items() if name == "asked_total") for _ in range(30)]
    finally:
        over.set()
        working.join()

    assert sums == sorted(sums)
    assert sums[-1] > 0
