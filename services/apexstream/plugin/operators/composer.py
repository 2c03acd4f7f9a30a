"""Operators on several sources, giving streams that go on as chains: ``StreamComposer().merge(a, b).map(f)``."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, overload

from apexstream.plugin.operators import arriving, combining, flattening, joining, lookups, sharing
from apexstream.plugin.operators.calls import Function
from apexstream.plugin.operators.chain import StreamTransformer, stream
from apexstream.plugin.operators.clock import LOOP_CLOCK, Timers
from apexstream.plugin.operators.combining import Length
from apexstream.plugin.operators.pacing import BUFFER_COUNT_MAX
from apexstream.plugin.operators.stream import Source, Stream
from apexstream.plugin.operators.windowing import HELD_MAX
from apexstream.plugin.operators.windows import Time

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
K = TypeVar("K", bound=Hashable)


class StreamComposer:
    """Composition, with one clock for all that follows."""

    __slots__ = ("_clock",)

    def __init__(self, clock: Timers = LOOP_CLOCK) -> None:
        self._clock = clock

    def _chain(self, composed: Stream[T]) -> StreamTransformer[T]:
        return StreamTransformer(composed.guarded, composed, clock=self._clock)

    def stream(self, source: Source[T]) -> StreamTransformer[T]:
        """A single source."""
        return stream(source, clock=self._clock)

    def merge(self, *sources: Source[T], priority: bool = False, ahead_max: int = 1) -> StreamTransformer[T]:
        """All elements of all sources as they arrive."""
        return self._chain(arriving.merge(*sources, priority=priority, ahead_max=ahead_max))

    @overload
    def zip(
        self, a: Source[A], b: Source[B], /, *, length: Length = ..., fill: Any = ...
    ) -> StreamTransformer[tuple[A, B]]: ...
    @overload
    def zip(
        self, a: Source[A], b: Source[B], c: Source[C], /, *, length: Length = ..., fill: Any = ...
    ) -> StreamTransformer[tuple[A, B, C]]: ...
    @overload
    def zip(self, *sources: Source[Any], length: Length = ..., fill: Any = ...) -> StreamTransformer[Any]: ...
    def zip(self, *sources: Source[Any], length: Length = "strict", fill: Any = None) -> StreamTransformer[Any]:
        """Tuples of the sources' first elements, second elements, and so on."""
        return self._chain(combining.zip(*sources, length=length, fill=fill))

    def concat(self, *sources: Source[T]) -> StreamTransformer[T]:
        """One source after the other."""
        return self._chain(combining.concat(*sources))

    def interleave(self, *sources: Source[T]) -> StreamTransformer[T]:
        """One element of each source in turn."""
        return self._chain(combining.interleave(*sources))

    @overload
    def combine_latest(
        self, a: Source[A], b: Source[B], /, *, ahead_max: int = ...
    ) -> StreamTransformer[tuple[A, B]]: ...
    @overload
    def combine_latest(
        self, a: Source[A], b: Source[B], c: Source[C], /, *, ahead_max: int = ...
    ) -> StreamTransformer[tuple[A, B, C]]: ...
    @overload
    def combine_latest(self, *sources: Source[Any], ahead_max: int = ...) -> StreamTransformer[Any]: ...
    def combine_latest(self, *sources: Source[Any], ahead_max: int = 1) -> StreamTransformer[Any]:
        """The newest element of every source, whenever one gives another."""
        return self._chain(arriving.combine_latest(*sources, ahead_max=ahead_max))

    def join(
        self,
        left: Source[A],
        right: Source[B],
        *,
        within: Time,
        key_of: Callable[[Any], Hashable],
        time_of: Callable[[Any], Time],
        right_key_of: Callable[[B], Hashable] | None = None,
        right_time_of: Callable[[B], Time] | None = None,
        how: joining.How = "inner",
        lateness: Time = 0,
        late: Function[Any, object] | None = None,
        held_max: int = HELD_MAX,
        ahead_max: int = 1,
    ) -> StreamTransformer[joining.Joined[A, B]]:
        """Pairs of a left and a right element with equal keys and times that are close."""
        joined = joining.join(
            left,
            right,
            within=within,
            key_of=key_of,
            time_of=time_of,
            right_key_of=right_key_of,
            right_time_of=right_time_of,
            how=how,
            lateness=lateness,
            late=late,
            held_max=held_max,
            ahead_max=ahead_max,
        )
        return self._chain(joined)

    def lookup(
        self,
        source: Source[A],
        table: Source[B],
        *,
        key_of: Callable[[Any], Hashable],
        time_of: Callable[[Any], Time],
        table_key_of: Callable[[B], Hashable] | None = None,
        table_time_of: Callable[[B], Time] | None = None,
        how: lookups.HowLookup = "inner",
        lateness: Time = 0,
        late: Function[Any, object] | None = None,
        held_max: int = HELD_MAX,
        keys_max: int = HELD_MAX,
        ahead_max: int = 1,
    ) -> StreamTransformer[joining.Joined[A, B]]:
        """Each element with what a table said of its key at its time."""
        looked_up = lookups.lookup(
            source,
            table,
            key_of=key_of,
            time_of=time_of,
            table_key_of=table_key_of,
            table_time_of=table_time_of,
            how=how,
            lateness=lateness,
            late=late,
            held_max=held_max,
            keys_max=keys_max,
            ahead_max=ahead_max,
        )
        return self._chain(looked_up)

    def switch(self, source: Source[Source[T]], *, ahead_max: int = 1) -> StreamTransformer[T]:
        """The elements of the newest stream that ``source`` gave."""
        return self._chain(flattening.switch(source, ahead_max=ahead_max))

    def race(self, *sources: Source[T]) -> StreamTransformer[T]:
        """The elements of whichever source gives one first."""
        return self._chain(arriving.race(*sources))

    def broadcast(
        self, source: Source[T], *, ahead_max: int = BUFFER_COUNT_MAX, consumers_min: int = 1
    ) -> sharing.Hub[T]:
        """A hub, of which every consumer gets every element."""
        return sharing.broadcast(source, ahead_max=ahead_max, consumers_min=consumers_min)

    def split(
        self, source: Source[T], *predicates: Function[T, object], ahead_max: int = BUFFER_COUNT_MAX
    ) -> sharing.Split[T]:
        """A fixed number of branches, by the first predicate that is true."""
        return sharing.split(source, *predicates, ahead_max=ahead_max)

    def partition(
        self,
        source: Source[T],
        key_of: Callable[[T], K],
        *,
        ahead_max: int = BUFFER_COUNT_MAX,
        branches_max: int = sharing.BRANCHES_MAX,
    ) -> StreamTransformer[tuple[K, Stream[T]]]:
        """A branch for each key, as it first appears."""
        return self._chain(sharing.partition(source, key_of, ahead_max=ahead_max, branches_max=branches_max))
