"""The fold against a model: whatever writers, zombies and crashes put into a log, readers agree on one content."""

import copy
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.core.chunk import FROM_UNKNOWN, GENESIS, Chunk, ChunkRun, Kind, chain
from apexstream.core.fold import REWOUND_MAX, StreamFold, Verdict


def data(*payloads: bytes, last: Kind = Kind.DATA) -> tuple[Chunk, ...]:
    kinds = [Kind.DATA] * (len(payloads) - 1) + [last]
    return tuple(Chunk(kind, payload, 0) for kind, payload in zip(kinds, payloads, strict=True))


class Author:
    """Writes what a correct runner writes; everything a test needs to break is a parameter."""

    def __init__(self, attempt: int, writer: str = "w") -> None:
        self.attempt, self.writer = attempt, writer
        self.seq, self.hash = 0, GENESIS

    def claim(self, first_seq: int = FROM_UNKNOWN) -> ChunkRun:
        return self._fence(Kind.CLAIM, first_seq, GENESIS)

    def resume(self, seq: int, at_hash: bytes) -> ChunkRun:
        self.seq, self.hash = seq, at_hash
        return self._fence(Kind.RESUME, seq, at_hash)

    def run(self, *payloads: bytes, last: Kind = Kind.DATA, checkpoint: bytes | None = None) -> ChunkRun:
        body = b"|".join((self.writer.encode(), str(self.attempt).encode(), str(self.seq).encode(), *payloads))
        self.hash = chain(self.hash, body)
        run = ChunkRun(
            "s", self.attempt, self.writer, self.seq, data(*payloads, last=last), checkpoint, self.hash, body
        )
        self.seq += len(payloads)
        return run

    def _fence(self, kind: Kind, seq: int, at_hash: bytes) -> ChunkRun:
        return ChunkRun("s", self.attempt, self.writer, seq, (Chunk(kind, b"", 0),), None, at_hash)


def fold_of(*runs: ChunkRun) -> tuple[StreamFold, list[bytes], list[Verdict]]:
    fold, content, verdicts = StreamFold(), [], []
    for run in runs:
        outcome = fold.apply(run)
        verdicts.append(outcome.verdict)
        if outcome.verdict is Verdict.ACCEPTED:
            assert outcome.seq == len(content)
            content += [chunk.payload for chunk in run.chunks]
        elif outcome.verdict is Verdict.REWOUND:
            del content[outcome.seq :]
    return fold, content, verdicts


def test_a_fresh_attempt_needs_no_resume():
    one = Author(1)
    fold, content, _ = fold_of(one.claim(0), one.run(b"a", b"b"), one.run(b"c", last=Kind.COMPLETE))
    assert content == [b"a", b"b", b"c"]
    assert fold.closed is Kind.COMPLETE


def test_a_zombie_is_dead_from_the_new_claim_on():
    old, new = Author(1, "old"), Author(2, "new")
    runs = [old.claim(0), old.run(b"a"), new.claim(), old.run(b"zombie"), new.resume(1, chain(GENESIS, b"old|1|0|a"))]
    _, content, verdicts = fold_of(*runs, new.run(b"b"), old.run(b"late"))
    assert content == [b"a", b"b"]
    assert verdicts[3] is Verdict.DEAD
    assert verdicts[-1] is Verdict.DEAD


def test_of_two_claims_of_one_number_the_first_in_the_log_wins():
    first, second = Author(1, "first"), Author(1, "second")
    _, content, _ = fold_of(first.claim(0), second.claim(0), second.run(b"no"), first.run(b"yes"))
    assert content == [b"yes"]


def test_an_attempt_may_rewind_to_the_last_checkpoint_or_to_the_start_and_nowhere_else():
    one = Author(1)
    runs = [one.claim(0), one.run(b"a", b"b", checkpoint=b"state"), one.run(b"c"), one.run(b"d")]
    at_checkpoint, at_c = runs[1].hash, runs[2].hash
    for seq, at_hash, verdict in (
        (2, at_checkpoint, Verdict.REWOUND),
        (0, GENESIS, Verdict.REWOUND),
        (4, one.hash, Verdict.RESUMED),
        (3, at_c, Verdict.VIOLATION),
        (2, GENESIS, Verdict.VIOLATION),
        (5, one.hash, Verdict.VIOLATION),
    ):
        two = Author(2)
        *_, verdicts = fold_of(*runs, two.claim(), two.resume(seq, at_hash))
        assert verdicts[-1] is verdict, (seq, verdict)


def test_a_rewind_to_the_start_forgets_the_checkpoint():
    one, two = Author(1), Author(2)
    fold, content, _ = fold_of(one.claim(0), one.run(b"a", checkpoint=b"state"), two.claim(), two.resume(0, GENESIS))
    assert content == []
    assert (fold.checkpoint, fold.checkpoint_seq) == (None, 0)


def test_nothing_counts_between_claim_and_resume():
    two = Author(2)
    *_, verdicts = fold_of(two.claim(), two.run(b"early"))
    assert verdicts[-1] is Verdict.VIOLATION


def test_a_closed_stream_takes_nothing_more():
    one, two = Author(1), Author(2)
    runs = [one.claim(0), one.run(b"a", last=Kind.CANCELLED), one.run(b"b"), two.claim(), two.resume(0, GENESIS)]
    fold, content, verdicts = fold_of(*runs)
    assert content == [b"a"]
    assert verdicts[2:] == [Verdict.DEAD] * 3
    assert fold.attempt == 1


def test_each_broken_rule_is_a_violation_and_changes_nothing():
    def broken(**changes: object) -> ChunkRun:
        one = Author(1)
        one.claim(0)
        run = one.run(b"a", b"b")
        fields = {name: getattr(run, name) for name in run.__slots__}
        return ChunkRun(**{**fields, **changes})

    fence = Chunk(Kind.RESUME, b"", 0)
    for run in (
        broken(first_seq=1),
        broken(hash=bytes(15) + b"x"),
        broken(body=b"other"),
        broken(chunks=()),
        broken(chunks=(*data(b"end"), Chunk(Kind.COMPLETE, b"", 0), Chunk(Kind.DATA, b"", 0))),
        broken(chunks=(*data(b"a"), fence)),
        broken(chunks=(fence, *data(b"a"))),
        broken(attempt=2),
    ):
        fold = StreamFold()
        fold.apply(Author(1).claim(0))
        before = copy.copy(fold)
        assert fold.apply(run).verdict is Verdict.VIOLATION, run
        assert fold == before


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[ChunkRun], list[bytes]]:
    """A log as crashing runners leave it: attempts that resume properly, interleaved with zombies' late writes and runs
    that were written twice; together with the content that the surviving attempts meant."""
    rng = random.Random(draw(st.integers()))
    log: list[ChunkRun] = []
    content: list[bytes] = []
    fold = StreamFold()
    zombies: list[Author] = []
    for attempt in range(1, draw(st.integers(2, 5))):
        author = Author(attempt, f"w{attempt}")
        log.append(author.claim())
        fold.apply(log[-1])
        for zombie in rng.sample(zombies, rng.randint(0, len(zombies))):
            log.append(zombie.run(b"zombie"))
            fold.apply(log[-1])
        places = [(fold.next_seq, fold.hash), (fold.checkpoint_seq, fold.checkpoint_hash), (0, GENESIS)]
        seq, at_hash = rng.choice(places)
        log.append(author.resume(seq, at_hash))
        fold.apply(log[-1])
        del content[seq:]
        for _ in range(rng.randint(0, 6)):
            payloads = [rng.randbytes(2) for _ in range(rng.randint(1, 4))]
            log.append(author.run(*payloads, checkpoint=rng.choice([None, b"state"])))
            fold.apply(log[-1])
            content += payloads
            if zombies and rng.random() < 0.3:
                log.append(rng.choice(zombies).run(b"zombie"))
            if rng.random() < 0.2:
                log.append(log[-1])  # the same bytes again: a duplicate that a broken producer might make
        zombies.append(author)
    return log, content


@given(histories())
@settings(max_examples=300, deadline=None)
def test_the_fold_of_any_history_is_what_the_surviving_attempts_meant(history: tuple[list[ChunkRun], list[bytes]]):
    log, content = history
    assert fold_of(*log)[1] == content


@given(histories(), st.data())
@settings(max_examples=200, deadline=None)
def test_a_reader_that_stops_anywhere_and_goes_on_from_its_state_sees_the_same(
    history: tuple[list[ChunkRun], list[bytes]], choose: st.DataObject
):
    log, _ = history
    cut = choose.draw(st.integers(0, len(log)))
    first = StreamFold()
    for run in log[:cut]:
        first.apply(run)
    second = copy.copy(first)
    assert [first.apply(run) for run in log[cut:]] == [second.apply(run) for run in log[cut:]]
    assert first == second


@given(histories(), st.data())
@settings(max_examples=200, deadline=None)
def test_a_lost_run_is_noticed_and_never_papered_over(
    history: tuple[list[ChunkRun], list[bytes]], choose: st.DataObject
):
    log, content = history
    fold, _, _ = fold_of(*log)
    accepted = [index for index, verdict in enumerate(fold_of(*log)[2]) if verdict is Verdict.ACCEPTED]
    if not accepted:
        return
    lost = choose.draw(st.sampled_from(accepted))
    without, remaining, verdicts = fold_of(*log[:lost], *log[lost + 1 :])
    same_again = lost + 1 < len(log) and log[lost + 1] is log[lost]
    assert (
        same_again
        or remaining != content
        or Verdict.VIOLATION in verdicts
        or without == fold
        or _rewound_over(log, lost)
    )


def _rewound_over(log: list[ChunkRun], lost: int) -> bool:
    return any(run.chunks[0].kind is Kind.RESUME and run.first_seq <= log[lost].first_seq for run in log[lost + 1 :])


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40)), max_size=200))
def test_a_reader_that_comes_back_forgets_all_that_was_taken_back_and_no_more_than_it_must(
    rewinds: list[tuple[int, int]],
):
    """Each rewind goes back to a seq from a place further on. What the fold kept answers for every number of rewinds."""
    fold, went = StreamFold(), []
    for forward, to in rewinds:
        fold.next_seq = to + forward
        fold._note_rewind(to)
        went.append(to)

    exact = len({min(went[at:]) for at in range(len(went))}) <= REWOUND_MAX
    for told in range(len(went)):
        kept, right = fold.kept_below(told), min(went[told:])
        assert kept is not None
        assert kept == right if exact else kept <= right
        assert fold.taken_back(right, told) is None or not exact
        assert fold.taken_back(right + 1, told) == kept
    assert fold.kept_below(len(went)) is None
    assert len(fold.rewound) <= REWOUND_MAX


def test_what_is_kept_of_rewinds_is_bounded_and_stays_right_enough():
    fold = StreamFold()
    for number in range(1000):
        fold.next_seq = number + 2
        fold._note_rewind(number)
    assert len(fold.rewound) == REWOUND_MAX
    assert all(fold.kept_below(told) <= told for told in range(1000))
    assert fold.kept_below(999) == 999
