"""What an append does to a stream that is written from outside: a pure state machine.

Its state travels as the checkpoint of every run, so it is in the log with the content it speaks of, and whoever takes the
stream over begins where the last accepted run left it.
"""

from hashlib import blake2b
from typing import Any

import msgspec

from apexstream.core.errors import ChunkDecodeError

PRODUCERS_MAX = 1_000  # a stream; past it the one that wrote longest ago is forgotten


class Producer(msgspec.Struct, frozen=True, array_like=True):
    """Who appends, which of its lives that is, and the number of the append in it."""

    name: str
    epoch: int
    seq: int

    @property
    def digest(self) -> str:
        """Stands for this append where its producer's name must not be read."""
        return blake2b(msgspec.json.encode(self), digest_size=16).hexdigest()


class Accepted(msgspec.Struct, frozen=True):
    """Append it. ``skip`` messages of it are in the stream already, from a try that was interrupted."""

    skip: int = 0


class Duplicate(msgspec.Struct, frozen=True):
    """It is in the stream already; ``last_seq`` is the producer's newest."""

    epoch: int
    last_seq: int


class Stale(msgspec.Struct, frozen=True):
    """A newer life of this producer has written: ``epoch`` is that one."""

    epoch: int


class NewEpochNotAtZero(msgspec.Struct, frozen=True):
    """A new epoch begins with sequence number 0."""


class Gap(msgspec.Struct, frozen=True):
    """Appends before this one are missing; ``expected`` is the next sequence number."""

    expected: int


class OldStreamSeq(msgspec.Struct, frozen=True):
    """``Stream-Seq`` is not greater than the last one."""

    last: str


class Closed(msgspec.Struct, frozen=True):
    """The stream takes nothing more."""


class WrongType(msgspec.Struct, frozen=True):
    """Its content type is not the stream's."""


Decision = Accepted | Duplicate | Stale | NewEpochNotAtZero | Gap | OldStreamSeq | Closed | WrongType


class OutsideState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What decides about the next append: the last sequence number (and epoch) of each producer, in the order of their last
    writing, the last ``Stream-Seq``, the digest of the append that closed the stream, and the append of which a first part is
    in the log."""

    producers: dict[str, tuple[int, int]] = {}
    stream_seq: str | None = None
    closed: bool = False
    closed_by: str = ""
    partial: tuple[Producer, int] | None = None

    def decide(self, producer: Producer | None, stream_seq: str | None) -> Decision:
        """What becomes of an append."""
        if self.closed:
            return self._when_closed(producer)
        if producer is not None:
            decision = self._sequence(producer)
            if not isinstance(decision, Accepted):
                return decision
        if stream_seq is not None and self.stream_seq is not None and stream_seq.encode() <= self.stream_seq.encode():
            return OldStreamSeq(self.stream_seq)
        if self.partial is not None and self.partial[0] == producer:
            return Accepted(skip=self.partial[1])
        return Accepted()

    def _when_closed(self, producer: Producer | None) -> Decision:
        """The close itself, sent again, has succeeded; a producer's older life is told so; all else comes too late."""
        if producer is not None and producer.digest == self.closed_by:
            return Duplicate(producer.epoch, producer.seq)
        if producer is not None and producer.epoch < self.producers.get(producer.name, (0, 0))[0]:
            return Stale(self.producers[producer.name][0])
        return Closed()

    def _sequence(self, producer: Producer) -> Decision:
        known = self.producers.get(producer.name)
        if known is None:
            return Accepted() if producer.seq == 0 else Gap(0)
        epoch, last = known
        if producer.epoch < epoch:
            return Stale(epoch)
        if producer.epoch > epoch:
            return Accepted() if producer.seq == 0 else NewEpochNotAtZero()
        if producer.seq <= last:
            return Duplicate(epoch, last)
        return Accepted() if producer.seq == last + 1 else Gap(last + 1)

    def after(self, producer: Producer | None, stream_seq: str | None, *, closes: bool) -> "OutsideState":
        """The state once the whole append is in the log."""
        producers = self.producers
        if producer is not None:
            producers = {name: known for name, known in producers.items() if name != producer.name}
            producers[producer.name] = (producer.epoch, producer.seq)
            while len(producers) > PRODUCERS_MAX:
                del producers[next(iter(producers))]
        return OutsideState(
            producers=producers,
            stream_seq=self.stream_seq if stream_seq is None else stream_seq,
            closed=closes,
            closed_by=producer.digest if closes and producer is not None else "",
        )

    def after_part(self, producer: Producer | None, count: int) -> "OutsideState":
        """The state once the first ``count`` messages of an append are in the log, and more are to come."""
        return msgspec.structs.replace(self, partial=None if producer is None else (producer, count))


def write_state(state: OutsideState) -> bytes:
    """As it stands in a checkpoint: JSON."""
    return msgspec.json.encode(state)


_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(OutsideState)


def read_state(checkpoint: bytes | None) -> OutsideState:
    """The state in a checkpoint; None: nothing was written yet. Raise ``ChunkDecodeError`` for what is no such state."""
    if checkpoint is None:
        return OutsideState()
    try:
        state: OutsideState = _decoder.decode(checkpoint)
    except (msgspec.DecodeError, UnicodeError) as problem:
        raise ChunkDecodeError("bad_logical", f"not the state of a stream written from outside: {problem}") from None
    return state


class _End(msgspec.Struct, frozen=True, omit_defaults=True):
    """The payload of the chunk that ends the stream; it is never encrypted."""

    closed_by: str = ""


def write_end(state: OutsideState) -> bytes:
    """The payload of the end that leads to ``state``."""
    return msgspec.json.encode(_End(state.closed_by))


def read_end(payload: bytes) -> OutsideState:
    """The state of a stream of which only its end is known: its checkpoint is not kept once it is sealed."""
    try:
        return OutsideState(closed=True, closed_by=msgspec.json.decode(payload, type=_End).closed_by)
    except (msgspec.DecodeError, UnicodeError):
        return OutsideState(closed=True)
