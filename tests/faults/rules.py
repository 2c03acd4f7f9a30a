"""What a stream contains, written from the text of ``schemas/gateway/PROTOCOL.md`` ("The stream record") alone.

Deliberately slow and plain: it keeps every accepted run, so that each place a fence names can be looked up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from hashlib import sha256

GENESIS = bytes(16)
UNKNOWN = -1
ENDS = ("complete", "error", "cancelled")
FENCES = ("claim", "resume")


@dataclass(frozen=True, slots=True)
class Item:
    """One chunk as it lies in a record."""

    kind: str
    payload: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Run:
    """One record of ``apex.chunks`` and its place in the log. ``body`` is the record without its frame."""

    offset: int
    at_ms: int
    attempt: int
    writer: str
    first_seq: int
    items: tuple[Item, ...]
    checkpoint: bytes | None
    hash: bytes
    body: bytes


class Became(Enum):
    """What a record did to its stream."""

    CONTENT = auto()
    FENCE = auto()
    REWIND = auto()
    DEAD = auto()  # nothing, and rightly so: its writer had lost the stream, or the stream was closed
    WRONG = auto()  # nothing, and a correct writer does not write it


@dataclass(frozen=True, slots=True)
class Place:
    """A stream as it was after the record at ``offset``."""

    offset: int
    status: str  # open, or how it ended
    attempt: int
    next_seq: int
    data_count: int
    hash: bytes


_BEGINNING = Place(-1, "open", 0, 0, 0, GENESIS)


@dataclass(slots=True)
class Stream:
    """A stream so far. ``content`` is what counts; ``forgotten`` what counted once, with its seq, until a rewind."""

    partition: int = -1
    content: list[Item] = field(default_factory=list)
    forgotten: list[tuple[int, Item]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    dead: int = 0
    claimed_by: list[str] = field(default_factory=list)  # the writers of the claims that counted
    rewinds: int = 0
    closed: Run | None = None
    attempt: int = 0
    writer: str = ""
    checkpoint: bytes | None = None
    offsets: list[int] = field(default_factory=list)  # of the record that each item of the content came in
    runs_by: list[tuple[int, int]] = field(default_factory=list)  # (attempt, seq after it) of every accepted run
    history: list[Place] = field(default_factory=list)
    _open: bool = False  # the newest claim has said where it goes on
    _places: dict[int, bytes] = field(default_factory=lambda: {0: GENESIS})  # seq after a run → hash of that run
    _checkpoint_seq: int = 0
    _data_count: int = 0
    _late_claims: set[tuple[int, str]] = field(default_factory=set)

    @property
    def next_seq(self) -> int:
        """The seq that the next chunk must have."""
        return len(self.content)

    @property
    def hash(self) -> bytes:
        """The hash at the content's end."""
        return self._places[self.next_seq]

    @property
    def checkpoint_seq(self) -> int:
        """The seq after the last chunk that the checkpoint covers; 0 without one."""
        return self._checkpoint_seq

    def take(self, run: Run) -> Became:
        """Apply one record, in log order."""
        kinds = [item.kind for item in run.items]
        became = self._after_close(run, kinds) if self.closed else self._while_open(run, kinds)
        self.dead += became is Became.DEAD
        if became not in {Became.DEAD, Became.WRONG}:
            self._remember(run.offset)
        return became

    def at(self, offset: int) -> Place:
        """The stream as all its records before ``offset`` make it."""
        return next((place for place in reversed(self.history) if place.offset < offset), _BEGINNING)

    def untouched_since(self, offset: int) -> int:
        """The seq up to which no rewind after ``offset`` has changed the content that was there."""
        return min((place.next_seq for place in self.history if place.offset >= offset), default=self.next_seq)

    def _remember(self, offset: int) -> None:
        status = self.content[-1].kind if self.closed else "open"
        self.history.append(Place(offset, status, self.attempt, self.next_seq, self._data_count, self.hash))

    def _after_close(self, run: Run, kinds: Sequence[str]) -> Became:
        """Nothing counts any more. A writer that claims in order to read (-1) must see that the stream is closed, and stop."""
        who = run.attempt, run.writer
        if kinds[:1] == ["claim"] and run.first_seq == UNKNOWN:
            self._late_claims.add(who)
        elif who in self._late_claims:
            return self._wrong(run, "written after a claim that was made when the stream was closed")
        return Became.DEAD

    def _while_open(self, run: Run, kinds: Sequence[str]) -> Became:
        holds = (run.attempt, run.writer) == (self.attempt, self.writer)
        if any(kind in FENCES for kind in kinds) and len(kinds) > 1:
            return self._wrong(run, "a fence is not alone in its record")
        if kinds == ["claim"]:
            return self._claim(run)
        if run.attempt > self.attempt:
            return self._wrong(run, "written before its claim")
        if not holds:
            return Became.DEAD
        if kinds == ["resume"]:
            return self._wrong(run, "a second resume") if self._open else self._go_on(run)
        return self._append(run, kinds)

    def _claim(self, run: Run) -> Became:
        if run.attempt <= self.attempt:
            return Became.DEAD
        self.attempt, self.writer, self._open = run.attempt, run.writer, False
        self.claimed_by.append(run.writer)
        return Became.FENCE if run.first_seq == UNKNOWN else self._go_on(run)

    def _go_on(self, run: Run) -> Became:
        seq = run.first_seq
        if seq not in {0, self._checkpoint_seq, self.next_seq}:
            return self._wrong(run, "goes on neither at the next seq, nor at the last checkpoint, nor at 0")
        if run.hash != self._places[seq]:
            return self._wrong(run, "does not have the hash of the place that it goes on from")
        self._open = True
        if seq == self.next_seq:
            return Became.FENCE
        self._forget_from(seq)
        return Became.REWIND

    def _forget_from(self, seq: int) -> None:
        self.rewinds += 1
        self.forgotten += enumerate(self.content[seq:], seq)
        self._data_count -= sum(item.kind == "data" for item in self.content[seq:])
        del self.content[seq:], self.offsets[seq:]
        self._places = {place: mark for place, mark in self._places.items() if place <= seq}
        self.runs_by = [(attempt, end) for attempt, end in self.runs_by if end <= seq]
        if seq < self._checkpoint_seq:
            self.checkpoint, self._checkpoint_seq = None, 0

    def _append(self, run: Run, kinds: Sequence[str]) -> Became:
        if not self._open:
            return self._wrong(run, "between claim and resume")
        if not kinds:
            return self._wrong(run, "no chunks")
        if run.first_seq != self.next_seq:
            return self._wrong(run, f"seq {self.next_seq} is next")
        if any(kind in ENDS for kind in kinds[:-1]):
            return self._wrong(run, "chunks after the end")
        if run.hash != sha256(self.hash + run.body[:-16]).digest()[:16]:
            return self._wrong(run, "its hash does not continue the chain")
        self.content += run.items
        self._data_count += kinds.count("data")
        self.offsets += [run.offset] * len(run.items)
        self._places[self.next_seq] = run.hash
        self.runs_by.append((run.attempt, self.next_seq))
        if run.checkpoint is not None:
            self.checkpoint, self._checkpoint_seq = run.checkpoint, self.next_seq
        if kinds[-1] in ENDS:
            self.closed = run
        return Became.CONTENT

    def _wrong(self, run: Run, why: str) -> Became:
        self.wrong.append(f"offset {run.offset}, attempt {run.attempt} of {run.writer}, seq {run.first_seq}: {why}")
        return Became.WRONG
