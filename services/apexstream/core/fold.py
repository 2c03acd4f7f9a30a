"""The fold: turns the raw log of a stream into its clean content, the same way for every reader.

Feed it every run of one stream in log order. It decides which chunks count; nothing else in the platform does.
The rules, and the failure each one prevents:

* A **claim** with a higher attempt kills every older attempt from its place in the log on, so a zombie's late writes
  are dead for all readers alike. Of two claims of one number the first in the log wins.
* After a claim, nothing counts until its writer says where the stream goes on (``first_seq`` of the claim itself, or
  of the **resume** that follows it). That place is the next seq (no rewind), the last checkpoint, or 0.
* A run counts only from the holder of the newest claim, at the next seq, and chained to the run before it.
* A closed stream takes nothing more.

The state is bounded: it holds no chunk, the last checkpoint only, and what each attempt said when it claimed the stream.
Of the rewinds it keeps what somebody who comes back must be told: for any number of rewinds that a reader knows of, the
lowest seq that the later ones took back.
"""

from dataclasses import dataclass
from enum import Enum, auto

from apexstream.core.chunk import FROM_UNKNOWN, GENESIS, ChunkRun, Kind, chain

REWOUND_MAX = 64  # places that are kept of rewinds; of more, the oldest become one, at the lower place
UNTOLD = -1  # rewinds that a reader knows of, if it does not say


class Verdict(Enum):
    """What a run did to the stream."""

    ACCEPTED = auto()  # its chunks are the next ones of the stream
    CLAIMED = auto()  # a new attempt took over; nothing visible changed yet
    RESUMED = auto()  # the attempt goes on at the next seq; nothing visible changed
    REWOUND = auto()  # the attempt goes on earlier: viewers forget everything from ``seq`` on
    DEAD = auto()  # written by an attempt that had lost the stream, or after its end: normal after a crash, ignored
    VIOLATION = auto()  # breaks a rule that a correct writer keeps: ignored, and counted as an alarm


@dataclass(frozen=True, slots=True)
class Outcome:
    """``verdict``, the ``seq`` it applies to (first accepted seq, or where the stream goes on), and for a violation why."""

    verdict: Verdict
    seq: int = 0
    reason: str = ""


_CLAIMED = Outcome(Verdict.CLAIMED)
_DEAD = Outcome(Verdict.DEAD)


@dataclass(slots=True)
class StreamFold:
    """The state of one stream: what is next, who may write it, and the last place it can be resumed from."""

    next_seq: int = 0
    hash: bytes = GENESIS  # of the last accepted run
    attempt: int = 0
    writer: str = ""
    fenced: bool = False  # claimed, and not yet said where the attempt goes on
    closed: Kind | None = None
    data_count: int = 0  # data chunks before next_seq
    checkpoint: bytes | None = None
    checkpoint_seq: int = 0  # the seq after the last chunk that the checkpoint covers
    checkpoint_hash: bytes = GENESIS
    checkpoint_data_count: int = 0
    checkpoint_attempt: int = 0  # that wrote it
    claims: tuple[tuple[int, bytes], ...] = ()  # attempts whose claim said something (their wrapped data key), and what
    rewinds: int = 0  # how often the stream went back
    rewound: tuple[
        tuple[int, int], ...
    ] = ()  # number of a rewind, the seq it went to: those that no later one undercuts
    rewound_from: int = 0  # the highest next seq that it went back from

    def apply(self, run: ChunkRun) -> Outcome:
        """Fold one run in and say what became of it. Never raises for anything that a log can hold."""
        if self.closed is not None:
            return _DEAD
        if run.chunks and run.chunks[0].kind.fences:
            return self._fence(run)
        if run.attempt != self.attempt or run.writer != self.writer:
            # A newer attempt cannot write before its claim; an older one, or the loser of a tie, is a zombie.
            return _DEAD if run.attempt <= self.attempt else _violation("written before its claim", run)
        return self._append(run)

    def kept_below(self, told: int) -> int | None:
        """The seq before which everything still counts that counted after the first ``told`` rewinds; None: all of it."""
        return next((seq for number, seq in self.rewound if number > told), None)

    def taken_back(self, next_seq: int, told: int) -> int | None:
        """From where on a reader must forget: it has all before ``next_seq`` and knows of ``told`` rewinds. None: nothing.

        With ``told`` ``UNTOLD`` the answer may name more than the reader has wrong, never less.
        """
        seq = self.kept_below(max(told, 0))
        if seq is None or seq >= next_seq or (told == UNTOLD and next_seq > self.rewound_from):
            return None
        return seq

    def _fence(self, run: ChunkRun) -> Outcome:
        if len(run.chunks) != 1:
            return _violation("a fence shares its record", run)
        if run.chunks[0].kind is Kind.CLAIM:
            if run.attempt <= self.attempt:
                return _DEAD
            self.attempt, self.writer, self.fenced = run.attempt, run.writer, True
            if run.chunks[0].payload:
                self.claims += ((run.attempt, run.chunks[0].payload),)
            return _CLAIMED if run.first_seq == FROM_UNKNOWN else self._go_on(run)
        if run.attempt != self.attempt or run.writer != self.writer:
            return _DEAD if run.attempt <= self.attempt else _violation("resumed without a claim", run)
        return self._go_on(run) if self.fenced else _violation("resumed twice", run)

    def _go_on(self, run: ChunkRun) -> Outcome:
        places = {
            0: (GENESIS, 0),
            self.checkpoint_seq: (self.checkpoint_hash, self.checkpoint_data_count),
            self.next_seq: (self.hash, self.data_count),
        }
        seq = run.first_seq
        place = places.get(seq)
        if place is None or place[0] != run.hash:
            return _violation("resumes at a place that the log does not hold", run)
        rewound = seq < self.next_seq
        if rewound:
            self._note_rewind(seq)
        self.next_seq, self.fenced = seq, False
        self.hash, self.data_count = place
        if seq < self.checkpoint_seq:
            self.checkpoint, self.checkpoint_seq = None, 0
            self.checkpoint_hash, self.checkpoint_data_count = GENESIS, 0
        return Outcome(Verdict.REWOUND if rewound else Verdict.RESUMED, seq)

    def _note_rewind(self, seq: int) -> None:
        self.rewinds += 1
        self.rewound_from = max(self.rewound_from, self.next_seq)
        kept = [*(entry for entry in self.rewound if entry[1] < seq), (self.rewinds, seq)]
        if len(kept) > REWOUND_MAX:
            kept[:2] = [(kept[1][0], kept[0][1])]
        self.rewound = tuple(kept)

    def _append(self, run: ChunkRun) -> Outcome:
        if self.fenced:
            return _violation("written between claim and resume", run)
        if run.first_seq != self.next_seq:
            return _violation(f"expected seq {self.next_seq}", run)
        if not run.chunks:
            return _violation("has no chunks", run)
        for chunk in run.chunks[:-1]:
            if chunk.kind > Kind.PROGRESS:
                return _violation("goes on after its end", run)
        last = run.chunks[-1].kind
        if last.fences:
            return _violation("a fence shares its record", run)
        expected = chain(self.hash, run.body)
        if run.hash != expected:
            return _violation("is not chained to the run before it", run)
        seq = self.next_seq
        self.next_seq, self.hash = seq + len(run.chunks), expected
        self.data_count += sum(chunk.kind is Kind.DATA for chunk in run.chunks)
        if last.closes:
            self.closed = last
        if run.checkpoint is not None:
            self.checkpoint, self.checkpoint_seq = run.checkpoint, self.next_seq
            self.checkpoint_hash, self.checkpoint_data_count = expected, self.data_count
            self.checkpoint_attempt = run.attempt
        return Outcome(Verdict.ACCEPTED, seq)


def _violation(reason: str, run: ChunkRun) -> Outcome:
    return Outcome(
        Verdict.VIOLATION, run.first_seq, f"{run.stream_id} attempt {run.attempt} seq {run.first_seq}: {reason}"
    )
