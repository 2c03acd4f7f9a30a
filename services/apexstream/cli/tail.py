"""``apexstream tail``: a stream through the gateway, or the raw records of a topic straight from Kafka."""

import asyncio
from contextlib import aclosing

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import say, write_json
from apexstream.cli.render import View, view_for
from apexstream.cli.run import end_status
from apexstream.cli.running import gateway_url, kafka_cluster
from apexstream.cli.signals import first_of, interruptions
from apexstream.cli.topics import declared_topics
from apexstream.client import Client
from apexstream.contracts.catalogue import Topic
from apexstream.core.errors import InvalidRequest
from apexstream.runtime.settings import Settings, load_settings

QUIET_S = 1.0  # with --no-follow, a running stream that brings nothing for this long has been read


def tail(what: str, *, start: str, follow: bool, output: str, url: str) -> ExitCode:
    """Show what ``what`` names: a topic if the catalogue knows it, else a stream."""
    settings = load_settings()
    topic = find_topic(what, settings)
    if topic is None:
        from_seq = _first_seq(start)
        return asyncio.run(_tail_stream(gateway_url(settings, url), what, from_seq, follow, view_for(output)))
    return asyncio.run(_tail_topic(topic, settings, start, follow))


def find_topic(name: str, settings: Settings) -> Topic | None:
    """The declared topic of that name in this installation."""
    return next((topic for topic in declared_topics(settings) if topic.name == name), None)


def _first_seq(start: str) -> int:
    if start == "start":
        return 0
    if start.isdigit():
        return int(start)
    raise InvalidRequest(f"a stream cannot be read from {start!r}", where="--from", hint="Use start or a seq")


async def _tail_stream(url: str, stream_id: str, from_seq: int, follow: bool, view: View) -> ExitCode:
    async with Client(url) as client:
        # A stream that nobody asked for would be waited for without end.
        task = await client.task(stream_id)
        quiet_s = None if follow or task.status.final else QUIET_S
        with interruptions() as interrupted:
            try:
                return await first_of(_show(client, stream_id, from_seq, quiet_s, view), interrupted.get())
            finally:
                view.close()


async def _show(client: Client, stream_id: str, from_seq: int, quiet_s: float | None, view: View) -> ExitCode:
    async with aclosing(client.follow(stream_id, from_seq)) as frames:
        try:
            while True:
                frame = await asyncio.wait_for(anext(frames), quiet_s)
                view.show(frame)
                ended = end_status(frame)
                if ended is not None:
                    return ended
        except TimeoutError:
            say(f"nothing new for {QUIET_S:g} s; the stream goes on: use --follow")
            return ExitCode.OK


async def _tail_topic(topic: Topic, settings: Settings, start: str, follow: bool) -> ExitCode:
    with interruptions() as interrupted:
        return await first_of(_show_topic(topic, settings, start, follow), interrupted.get())


async def _show_topic(topic: Topic, settings: Settings, start: str, follow: bool) -> ExitCode:
    from apexstream.cli.records import describe_record
    from apexstream.log.fetcher import LogReader, Partition, Record, Tail
    from apexstream.log.registry import codec_of
    from apexstream.runtime.logs import configure_logs

    configure_logs(settings, service="tail", own_errors=True)
    codec = await codec_of(settings)

    def show(partition: Partition, records: list[Record]) -> None:
        for record in records:
            write_json(describe_record(topic, partition, record, codec))

    async with LogReader(kafka_cluster(settings), client_id=settings.instance_name("tail")) as reader:
        partitions = await reader.partitions(topic.name)
        first, ends = await reader.starts(partitions), await reader.ends(partitions)
        for partition in partitions:
            at = _offset(start, first[partition], ends[partition])
            async for records, _ in reader.scan(partition, at, ends[partition]):
                show(partition, records)
        if follow:
            await Tail(reader, ends, show).run()
    return ExitCode.OK


def _offset(start: str, first: int, end: int) -> int:
    if start in {"start", "end"}:
        return first if start == "start" else end
    if start.isdigit():
        return min(max(int(start), first), end)
    raise InvalidRequest(f"a topic cannot be read from {start!r}", where="--from", hint="Use start, end or an offset")
