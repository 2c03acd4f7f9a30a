"""Operators as methods: ``stream(source).map(f).batch(10)``. Each method does what the function of its name does; the docstrings
are there. One clock, given to :func:`stream`, is handed to every operator that waits for time.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Iterable, Iterator, Sized
from typing import Any, Literal, TypeVar, overload

from apexstream.plugin.iterate import iterate
from apexstream.plugin.operators import (
    batching,
    catching,
    elements,
    flattening,
    folding,
    pacing,
    recovering,
    selecting,
    sharing,
    windowing,
)
from apexstream.plugin.operators.batching import payload_bytes
from apexstream.plugin.operators.calls import Function, Ruling, result_of
from apexstream.plugin.operators.clock import LOOP_CLOCK, Timers
from apexstream.plugin.operators.errors import Overflow, Spent
from apexstream.plugin.operators.folding import NOTHING
from apexstream.plugin.operators.library import jsonpath, sampling, statistics, text
from apexstream.plugin.operators.stream import Guard, Readable, Source, Stream, close_iterator, elements_of
from apexstream.plugin.operators.windows import Time, Window, WindowKind

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
U = TypeVar("U")
A = TypeVar("A")
K = TypeVar("K", bound=Hashable)

LIST_MAX = 1_000_000


class StreamTransformer(Stream[T_co]):
    """A stream with the operators as methods."""

    __slots__ = ("_clock",)

    def __init__(self, run: Any, *sources: object, clock: Timers = LOOP_CLOCK) -> None:
        super().__init__(run, *sources)
        self._clock = clock

    def _then(self, following: Stream[U]) -> "StreamTransformer[U]":
        return StreamTransformer(following.guarded, following, clock=self._clock)

    @overload
    def map(
        self, function: Callable[[T_co], Awaitable[U]], *, concurrency: int = ..., ordered: bool = ...
    ) -> "StreamTransformer[U]": ...
    @overload
    def map(
        self, function: Callable[[T_co], U], *, concurrency: int = ..., ordered: bool = ...
    ) -> "StreamTransformer[U]": ...
    def map(self, function: Any, *, concurrency: int = 1, ordered: bool = True) -> "StreamTransformer[Any]":
        """Each element's result."""
        return self._then(elements.map(self, function, concurrency=concurrency, ordered=ordered))

    def filter(
        self, predicate: Function[T_co, object], *, concurrency: int = 1, ordered: bool = True
    ) -> "StreamTransformer[T_co]":
        """The elements for which ``predicate`` is true."""
        return self._then(elements.filter(self, predicate, concurrency=concurrency, ordered=ordered))

    @overload
    def flat_map(
        self,
        function: Callable[[T_co], Awaitable[Source[U]]],
        *,
        concurrency: int = ...,
        ordered: bool = ...,
        ahead_max: int = ...,
    ) -> "StreamTransformer[U]": ...
    @overload
    def flat_map(
        self,
        function: Callable[[T_co], Source[U]],
        *,
        concurrency: int = ...,
        ordered: bool = ...,
        ahead_max: int = ...,
    ) -> "StreamTransformer[U]": ...
    def flat_map(
        self, function: Any, *, concurrency: int = 1, ordered: bool = True, ahead_max: int = 1
    ) -> "StreamTransformer[Any]":
        """All elements of the streams that ``function`` makes of the elements."""
        return self._then(
            flattening.flat_map(self, function, concurrency=concurrency, ordered=ordered, ahead_max=ahead_max)
        )

    def switch(self: "StreamTransformer[Source[U]]", *, ahead_max: int = 1) -> "StreamTransformer[U]":
        """The elements of the newest stream among the elements."""
        return self._then(flattening.switch(self, ahead_max=ahead_max))

    def tap(self, function: Function[T_co, object]) -> "StreamTransformer[T_co]":
        """The elements unchanged, after ``function`` was called with each."""
        return self._then(elements.tap(self, function))

    def custom(self, build: Callable[[AsyncIterator[T_co]], Readable[U]]) -> "StreamTransformer[U]":
        """An operator of one's own."""
        return self._then(elements.custom(self, build))

    @overload
    def scan(self, function: Callable[[T_co, T_co], Awaitable[T_co] | T_co]) -> "StreamTransformer[T_co]": ...
    @overload
    def scan(self, function: Callable[[A, T_co], Awaitable[A] | A], initial: A) -> "StreamTransformer[A]": ...
    def scan(self, function: Any, initial: Any = NOTHING) -> "StreamTransformer[Any]":
        """Every intermediate result of folding."""
        return self._then(folding.scan(self, function, initial))

    @overload
    def reduce(self, function: Callable[[T_co, T_co], Awaitable[T_co] | T_co]) -> "StreamTransformer[T_co]": ...
    @overload
    def reduce(self, function: Callable[[A, T_co], Awaitable[A] | A], initial: A) -> "StreamTransformer[A]": ...
    def reduce(self, function: Any, initial: Any = NOTHING) -> "StreamTransformer[Any]":
        """The result of folding, as a stream of one."""
        return self._then(folding.reduce(self, function, initial))

    def batch(
        self,
        count: int | None = None,
        *,
        seconds: float | None = None,
        bytes_max: int | None = None,
        size_of: Callable[[T_co], int] = payload_bytes,
        ahead_max: int = 1,
    ) -> "StreamTransformer[list[T_co]]":
        """Lists of elements, by number, time and size."""
        batches = batching.batch(
            self,
            count,
            seconds=seconds,
            bytes_max=bytes_max,
            size_of=size_of,
            clock=self._clock,
            ahead_max=ahead_max,
        )
        return self._then(batches)

    def window(
        self,
        kind: WindowKind,
        *,
        time_of: Callable[[T_co], Time] | None = None,
        key_of: Callable[[T_co], Hashable] | None = None,
        lateness: Time = 0,
        late: Function[T_co, object] | None = None,
        held_max: int = windowing.HELD_MAX,
        ahead_max: int = 1,
    ) -> "StreamTransformer[Window[T_co]]":
        """Closed windows, in event time or in arrival time."""
        windows = windowing.window(
            self,
            kind,
            time_of=time_of,
            key_of=key_of,
            lateness=lateness,
            late=late,
            held_max=held_max,
            clock=self._clock,
            ahead_max=ahead_max,
        )
        return self._then(windows)

    def take(self, count: int) -> "StreamTransformer[T_co]":
        """The first ``count`` elements."""
        return self._then(selecting.take(self, count))

    def skip(self, count: int) -> "StreamTransformer[T_co]":
        """All but the first ``count`` elements."""
        return self._then(selecting.skip(self, count))

    def take_while(self, predicate: Function[T_co, object]) -> "StreamTransformer[T_co]":
        """The elements before the first for which ``predicate`` is false."""
        return self._then(selecting.take_while(self, predicate))

    def skip_while(self, predicate: Function[T_co, object]) -> "StreamTransformer[T_co]":
        """The elements from the first on for which ``predicate`` is false."""
        return self._then(selecting.skip_while(self, predicate))

    def until(self, predicate: Function[T_co, object]) -> "StreamTransformer[T_co]":
        """The elements up to and with the first for which ``predicate`` is true."""
        return self._then(selecting.until(self, predicate))

    def until_done(self, wait: Callable[[], Awaitable[object]]) -> "StreamTransformer[T_co]":
        """The elements that come before ``wait()`` returns."""
        return self._then(selecting.until_done(self, wait))

    def distinct(
        self,
        key_of: Function[T_co, Hashable] | None = None,
        *,
        remembered_max: int = selecting.REMEMBERED_MAX,
    ) -> "StreamTransformer[T_co]":
        """The elements whose key was not seen lately."""
        return self._then(selecting.distinct(self, key_of, remembered_max=remembered_max))

    def throttle(
        self, seconds: float, *, keep: Literal["first", "last"] = "first", ahead_max: int = 1
    ) -> "StreamTransformer[T_co]":
        """At most one element in ``seconds``; others are dropped."""
        return self._then(pacing.throttle(self, seconds, keep=keep, clock=self._clock, ahead_max=ahead_max))

    def debounce(
        self, quiet_s: float, *, wait_max_s: float | None = None, ahead_max: int = 1
    ) -> "StreamTransformer[T_co]":
        """An element once ``quiet_s`` seconds brought no newer one."""
        return self._then(pacing.debounce(self, quiet_s, wait_max_s=wait_max_s, clock=self._clock, ahead_max=ahead_max))

    def rate_limit(self, rate: float, *, per_s: float = 1.0, burst: int = 1) -> "StreamTransformer[T_co]":
        """All elements, at most ``rate`` in ``per_s`` seconds."""
        return self._then(pacing.rate_limit(self, rate, per_s=per_s, burst=burst, clock=self._clock))

    def buffer(
        self,
        count_max: int = pacing.BUFFER_COUNT_MAX,
        *,
        when_full: pacing.WhenFull = "wait",
        on_drop: Callable[[T_co], object] | None = None,
    ) -> "StreamTransformer[T_co]":
        """Read up to ``count_max`` elements ahead."""
        return self._then(pacing.buffer(self, count_max, when_full=when_full, on_drop=on_drop))

    def retry(
        self,
        backoff: recovering.Backoff | None = None,
        *,
        when: Callable[[Exception], bool] = recovering.worth_retrying,
        skip_seen: bool = True,
    ) -> "StreamTransformer[T_co]":
        """Open the source again when it fails; everything before this starts anew."""
        return self._then(recovering.retry(self, backoff, when=when, skip_seen=skip_seen, clock=self._clock))

    def timeout(
        self, element_s: float | None = None, *, first_s: float | None = None, total_s: float | None = None
    ) -> "StreamTransformer[T_co]":
        """Fail when the next element takes too long."""
        return self._then(recovering.timeout(self, element_s, first_s=first_s, total_s=total_s, clock=self._clock))

    def catch(
        self, policy: catching.Policy[U | Ruling], *, only: catching.Kinds = Exception
    ) -> "StreamTransformer[T_co | U]":
        """Put failures of everything before this, back to the last ``catch``, before ``policy``."""
        return self._then(catching.catch(self, policy, only=only))

    @overload
    def partition(
        self, key_of: Callable[[T_co], Awaitable[K]], *, ahead_max: int = ..., branches_max: int = ...
    ) -> "StreamTransformer[tuple[K, Stream[T_co]]]": ...
    @overload
    def partition(
        self, key_of: Callable[[T_co], K], *, ahead_max: int = ..., branches_max: int = ...
    ) -> "StreamTransformer[tuple[K, Stream[T_co]]]": ...
    def partition(
        self, key_of: Any, *, ahead_max: int = pacing.BUFFER_COUNT_MAX, branches_max: int = sharing.BRANCHES_MAX
    ) -> "StreamTransformer[tuple[Any, Stream[T_co]]]":
        """A branch for each key, as it first appears."""
        return self._then(sharing.partition(self, key_of, ahead_max=ahead_max, branches_max=branches_max))

    def broadcast(self, *, ahead_max: int = pacing.BUFFER_COUNT_MAX, consumers_min: int = 1) -> "sharing.Hub[T_co]":
        """A hub, of which every consumer gets every element."""
        return sharing.broadcast(self, ahead_max=ahead_max, consumers_min=consumers_min)

    def split(
        self, *predicates: Function[T_co, object], ahead_max: int = pacing.BUFFER_COUNT_MAX
    ) -> "sharing.Split[T_co]":
        """A fixed number of branches, by the first predicate that is true."""
        return sharing.split(self, *predicates, ahead_max=ahead_max)

    def json_path(self, path: str) -> "StreamTransformer[Any]":
        """Everything that ``path`` finds in the elements."""
        return self._then(jsonpath.json_path(self, path))

    def lines(
        self: "StreamTransformer[str] | StreamTransformer[bytes]",
        *,
        encoding: str = "utf-8",
        line_chars_max: int = text.LINE_CHARS_MAX,
    ) -> "StreamTransformer[str]":
        """The lines of text in pieces."""
        return self._then(text.lines(self, encoding=encoding, line_chars_max=line_chars_max))

    def csv_rows(
        self: "StreamTransformer[str] | StreamTransformer[bytes]", *, delimiter: str = ",", encoding: str = "utf-8"
    ) -> "StreamTransformer[dict[str, str]]":
        """The rows of CSV in pieces, named by the first."""
        return self._then(text.csv_rows(self, delimiter=delimiter, encoding=encoding))

    def count_tokens(
        self: "StreamTransformer[str]", tokenize: Callable[[str], Sized] = text.words
    ) -> "StreamTransformer[text.Counted[str]]":
        """Every piece of text with its number of tokens."""
        return self._then(text.count_tokens(self, tokenize))

    def sample(self, share: float, *, seed: int) -> "StreamTransformer[T_co]":
        """Each element with probability ``share``."""
        return self._then(sampling.sample(self, share, seed=seed))

    def reservoir(self, count: int, *, seed: int) -> "StreamTransformer[list[T_co]]":
        """One list of ``count`` elements, every choice equally likely."""
        return self._then(sampling.reservoir(self, count, seed=seed))

    def statistics(self: "StreamTransformer[float]") -> "StreamTransformer[statistics.Statistics]":
        """Running statistics of the numbers."""
        return self._then(statistics.statistics(self))

    async def to_list(self, count_max: int = LIST_MAX) -> list[T_co]:
        """All elements. Raises :class:`Overflow` for more than ``count_max``."""
        found: list[T_co] = []
        async with self.opened() as all_elements:
            async for element in all_elements:
                if len(found) == count_max:
                    raise Overflow(f"the stream has more than {count_max} elements", hint="Raise count_max")
                found.append(element)
        return found

    async def first(self, default: Any = NOTHING) -> Any:
        """The first element; ``default`` of an empty stream, or :class:`LookupError`."""
        async with self.opened() as all_elements:
            async for element in all_elements:
                return element
        return _or_lookup_error(default)

    async def last(self, default: Any = NOTHING) -> Any:
        """The last element; ``default`` of an empty stream, or :class:`LookupError`."""
        newest = default
        async with self.opened() as all_elements:
            async for newest in all_elements:  # noqa: B007 - its last value is the result
                pass
        return _or_lookup_error(newest)

    async def for_each(self, function: Function[T_co, object]) -> int:
        """Call ``function`` with each element; how many there were."""
        count = 0
        async with self.opened() as all_elements:
            async for element in all_elements:
                await result_of(function, element)
                count += 1
        return count


def _or_lookup_error(found: Any) -> Any:
    if found is NOTHING:
        raise LookupError("the stream is empty")
    return found


def stream(source: Source[T], *, clock: Timers = LOOP_CLOCK, blocking: bool = False) -> StreamTransformer[T]:
    """``source`` with the operators as methods. ``blocking``: it is an iterable whose steps may block; they run in a thread.

    A source that is an iterator can be read once; a second time raises :class:`~apexstream.plugin.operators.Spent`.
    """
    once = hasattr(source, "__anext__" if hasattr(source, "__aiter__") else "__next__")
    begun = False

    def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        nonlocal begun
        if begun and once:
            raise Spent("an iterator can be read once", hint="Give stream() a function that opens the source")
        begun = True
        return elements_of(_blocking(source) if blocking else source, guard)

    return StreamTransformer(run, source, clock=clock)


def _blocking(source: Any) -> Any:
    def steps() -> Iterator[Any]:
        elements = iter(source if isinstance(source, Iterable) else source())
        try:
            yield from elements
        finally:
            close_iterator(elements)

    return lambda: iterate(steps())
