"""The memory of a live stream, when it is full."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from tests.support.streams import CODEC, Author, numbered

from apexstream.core.fold import StreamFold
from apexstream.gateway.frames import JsonFrames
from apexstream.gateway.live import LiveStream, TailMemory
from apexstream.gateway.measures import StreamMeasures
from apexstream.log.cipher import StreamOpener


@dataclass(slots=True)
class Written:
    offset: int
    value: bytes
    key: bytes = b"s"
    timestamp: int = 0


def live(sizes: list[int], bytes_max: int) -> LiveStream:
    """A stream that nobody watches, of runs of these sizes."""
    author = Author("s")
    values = [author.claim(0), *(author.run(numbered(size, 1000 * at)) for at, size in enumerate(sizes))]
    stream = LiveStream(
        "s",
        ("chunks", 0),
        codec=CODEC,
        opener=StreamOpener("s", None),
        memory=TailMemory(bytes_max),
        measures=StreamMeasures("p", "a", lambda: 0),
        fold=StreamFold(),
        offset=0,
    )
    stream.take(Written(offset, value) for offset, value in enumerate(values))
    return stream


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    bytes_max=st.integers(5_000, 40_000),
    chunks_max=st.integers(1, 300),
)
async def test_a_viewer_that_catches_up_pushes_out_what_it_reads_and_still_gets_all_of_it(
    sizes: list[int], bytes_max: int, chunks_max: int
):
    """What is encoded for it counts as well, and may be too much for what is kept."""
    stream, frames = live(sizes, bytes_max), JsonFrames()
    whole, encoder = live(sizes, 1 << 30), frames.open("s")
    first = seq = stream.first_seq
    sent = b""
    while seq < stream.fold.next_seq and seq >= stream.first_seq:  # else the rest comes from the log
        data, next_seq = stream.since(seq, frames.name, encoder, chunks_max)
        assert seq < next_seq <= seq + chunks_max
        seq, sent = next_seq, sent + data
    expected = b""
    for at in range(first, seq):
        expected += whole.since(at, frames.name, encoder, 1)[0]
    assert sent == expected
