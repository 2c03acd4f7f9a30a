"""Fetch sessions (KIP-227): the broker remembers which partitions a reader follows and from where.

A fetch then names only what changed since the last one, and the answer only what has news. Without them each fetch of a
view names all of its fifty partitions, for one record of one of them. aiokafka has the fields and leaves them unused.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from aiokafka import errors
from aiokafka.protocol.fetch import FetchRequest

_FULL = 0  # epoch of a fetch that names everything and asks for a session
_EPOCH_MAX = 2**31 - 1

_Partition = tuple[str, int]


class FetchSession:
    """One reader's session with one broker. Ask :meth:`changes` for the next fetch, then tell :meth:`answered` or
    :meth:`forget`; one fetch at a time."""

    __slots__ = ("_epoch", "_known", "_wanted", "id")

    def __init__(self) -> None:
        self.id = 0  # 0: none
        self._epoch = _FULL
        self._known: dict[_Partition, int] = {}
        self._wanted: dict[_Partition, int] = {}

    @property
    def epoch(self) -> int:
        """The number of the next fetch in its session."""
        return self._epoch

    def changes(self, offsets: Mapping[_Partition, int]) -> tuple[dict[_Partition, int], list[_Partition]]:
        """What the broker must be told so that it knows ``offsets``: new offsets, and partitions no longer wanted."""
        self._wanted = dict(offsets)
        if self._epoch == _FULL:
            return self._wanted, []
        changed = {partition: at for partition, at in offsets.items() if self._known.get(partition) != at}
        return changed, [partition for partition in self._known if partition not in offsets]

    def answered(self, session_id: int, code: int) -> None:
        """Note the head of an answer; raise the ``KafkaError`` in it, after which the next fetch is a full one."""
        if code:
            self.forget()
            raise errors.for_code(code)
        if session_id:
            self.id, self._known = session_id, self._wanted
            self._epoch = self._epoch + 1 if self._epoch < _EPOCH_MAX else 1
        else:  # the broker has no room for another session
            self.forget()

    def forget(self) -> None:
        """Nobody knows what the broker knows: the next fetch names everything."""
        self.id, self._epoch, self._known = 0, _FULL, {}


class SessionFetch(FetchRequest):  # type: ignore[misc]  # aiokafka is untyped
    """A fetch in a session: everything in ``offsets`` that the broker does not know yet."""

    def __init__(self, session: FetchSession, offsets: Mapping[_Partition, int], *, wait_ms: int, partition_bytes: int):
        changed, gone = session.changes(offsets)
        topics: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for (topic, partition), offset in changed.items():
            topics[topic].append((partition, offset, partition_bytes))
        super().__init__(wait_ms, 1, 50 << 20, 0, list(topics.items()), rack_id="")
        self._session_id, self._session_epoch = session.id, session.epoch
        self._gone: dict[str, list[int]] = defaultdict(list)
        for topic, partition in gone:
            self._gone[topic].append(partition)

    def build(self, request_struct_class: Any) -> Any:
        """The request in the version that the broker speaks; before version 7 there are no sessions."""
        built = super().build(request_struct_class)
        if built.API_VERSION >= 7:
            built.session_id, built.session_epoch = self._session_id, self._session_epoch
            built.forgotten_topics_data = list(self._gone.items())
        return built
