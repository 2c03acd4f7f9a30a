"""Where logs go: to standard error, one event a line, the same form for our own and for every library's."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from apexstream.runtime.settings import Settings

# Their warnings matter; what they do all day does not.
_CHATTY = ("aiokafka", "asyncio", "httpcore", "httpx", "uvicorn", "urllib3", "websockets")
# It reports as errors what it then retries, at the first start of every cluster too; what it cannot mend, it raises.
_CRIES_WOLF = ("aiokafka.consumer.group_coordinator",)
REPEAT_S = 10.0  # a library says the same thing at most this often …
REPEATS_KEPT_MAX = 1_000  # … of this many things
_OURS = "apexstream"


def configure_logs(settings: Settings, *, service: str, own_errors: bool = False, stream: TextIO | None = None) -> None:
    """Send everything logged in this process to ``stream`` (standard error), labelled with ``service``.

    ``settings.log_format`` ``auto`` means readable lines on a terminal and JSON everywhere else. Libraries are shown
    from ``warning`` on, or from ``info`` on when ``settings.log_level`` is ``debug``. ``own_errors`` is for commands
    that say in one line of their own what went wrong: libraries are shown at ``debug`` only.
    """
    target = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared = _shared_processors(service)
    renderer = _renderer(settings, target)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    handler.addFilter(_Flood(time.monotonic))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    quiet = logging.CRITICAL if own_errors else max(level, logging.WARNING)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.INFO if level <= logging.DEBUG else quiet)
    for name in _CRIES_WOLF:
        logging.getLogger(name).setLevel(logging.NOTSET if level <= logging.DEBUG else logging.CRITICAL)
    logging.captureWarnings(capture=True)


class _Flood(logging.Filter):
    """Lets a library say the same thing once in ``REPEAT_S``, and then how often it said it meanwhile.

    Without Kafka, aiokafka's clients write hundreds of lines a second between them, which hides every other line.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._said: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show ``record``; marks one that stands for others."""
        if record.name.partition(".")[0] == _OURS:
            return True
        key = (record.name, record.lineno, str(record.msg)[:200])
        now = self._monotonic()
        shown_at, swallowed = self._said.get(key, (-REPEAT_S, 0))
        if now - shown_at < REPEAT_S:
            self._said[key] = (shown_at, swallowed + 1)
            return False
        if len(self._said) >= REPEATS_KEPT_MAX:
            self._said.clear()
        self._said[key] = (now, 0)
        if swallowed:
            record.repeated = swallowed
        return True


def _shared_processors(service: str) -> list[Processor]:
    def label(_: Any, __: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        label,
    ]


def _renderer(settings: Settings, target: TextIO) -> list[Processor]:
    if settings.log_format == "console" or (settings.log_format == "auto" and target.isatty()):
        return [_for_people, structlog.dev.ConsoleRenderer(colors=target.isatty(), pad_event_to=40)]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.UnicodeDecoder(),
        structlog.processors.JSONRenderer(serializer=_to_json),
    ]


def _for_people(_: Any, __: str, event: EventDict) -> EventDict:
    """The short form: who, what, and the time of day in UTC; on a terminal the rest is in the way."""
    event["event"] = f"{event.pop('service', ''):<10} {event['event']}"
    event["timestamp"] = str(event["timestamp"])[11:19]
    event.pop("logger", None)
    return event


def _to_json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
