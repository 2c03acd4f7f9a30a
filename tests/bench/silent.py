"""``python -m tests.bench.silent serve …``: a service that counts and traces nothing, to be compared with one that does."""

from apexstream.cli.main import main
from apexstream.gateway.measures import StreamMeasures
from apexstream.runner.measures import AttemptMeasures
from apexstream.runtime.instruments import Spread


def _nothing(*_: object, **__: object) -> None:
    """Counts nothing."""


if __name__ == "__main__":
    for kind, name in ((AttemptMeasures, "yielded"), (StreamMeasures, "handed_over"), (Spread, "observe")):
        setattr(kind, name, _nothing)
    main()
