"""What a runner counts of each action. Chunks come by the ten thousand a second: each batch of them costs two additions and
one look into a table of buckets here, whatever it holds."""

from apexstream.core.options import ErrorClass
from apexstream.runtime import meters
from apexstream.runtime.clock import Clock
from apexstream.runtime.instruments import Exemplar, Spread

ENDS = ("completed", "failed", "cancelled", "parked")
STALLED_S = 60.0  # without a chunk for longer, a stream counts as stalled


class ActionMeasures:
    """The cells of one action, looked up once, and the attempts at it that run now."""

    def __init__(self, plugin: str, action: str, clock: Clock) -> None:
        self._clock = clock
        self.running: set[AttemptMeasures] = set()
        self.chunks = meters.ACTION_CHUNKS.of(plugin, action)
        self.payload_bytes = meters.ACTION_BYTES.of(plugin, action)
        self.first_chunk = meters.ACTION_FIRST_CHUNK.of(plugin, action)
        self.between_chunks = meters.ACTION_BETWEEN_CHUNKS.of(plugin, action)
        self.seconds = meters.ACTION_SECONDS.of(plugin, action)
        self.attempts = meters.ACTION_ATTEMPTS.of(plugin, action)
        self.retries = meters.ACTION_RETRIES.of(plugin, action)
        self.resumes = meters.ACTION_RESUMES.of(plugin, action)
        self.rewinds = meters.ACTION_REWINDS.of(plugin, action)
        self._errors = {each: meters.ACTION_ERRORS.of(plugin, action, each.value) for each in ErrorClass}
        self._letters = {each: meters.DEAD_LETTERS.of(plugin, action, each.value) for each in ErrorClass}
        self._ends = {how: meters.ACTION_ENDS.of(plugin, action, how) for how in ENDS}
        meters.ACTION_ACTIVE.read(lambda: len(self.running), plugin, action)
        meters.ACTION_STALLED.read(self._stalled, plugin, action)
        meters.ACTION_PACED.read(lambda: sum(each.is_paced for each in tuple(self.running)), plugin, action)
        self.pace_changes = {way: meters.ACTION_PACE_CHANGES.of(plugin, action, way) for way in ("slower", "faster")}

    def attempt(self, trace_id: str = "") -> "AttemptMeasures":
        """The measures of a new attempt, which stands for others in exemplars if it has a trace."""
        return AttemptMeasures(self, self._clock, trace_id)

    def failed(self, error_class: ErrorClass) -> None:
        """An attempt failed."""
        self._errors[error_class].value += 1

    def ended(self, how: str) -> None:
        """A task ended in this runner's hands: completed, failed, cancelled or parked."""
        self._ends[how].value += 1

    def buried(self, error_class: ErrorClass) -> None:
        """A task became a dead letter."""
        self._letters[error_class].value += 1

    def _stalled(self) -> int:
        before = self._clock.monotonic() - STALLED_S
        return sum(1 for attempt in list(self.running) if attempt.last_at < before and not attempt.paused)


class AttemptMeasures:
    """One attempt at an action, from ``begin`` to ``end``."""

    __slots__ = ("_action", "_begun_at", "_clock", "_trace_id", "_yielded", "is_paced", "last_at", "paused")

    def __init__(self, action: ActionMeasures, clock: Clock, trace_id: str) -> None:
        self._action = action
        self._clock = clock
        self._trace_id = trace_id
        self._begun_at = self.last_at = clock.monotonic()
        self._yielded = False
        self.paused = False
        self.is_paced = False

    def started(self, tier: str, waited_s: float) -> None:
        """The task's first attempt begins, so long after its submission."""
        meters.TASK_START.of(tier).observe(waited_s)

    def begin(self, now: float, *, content: int, kept: int) -> None:
        """The action starts on a stream that has ``content`` chunks, of which ``kept`` stay."""
        self._begun_at = self.last_at = now
        self._action.attempts.value += 1
        self._action.running.add(self)
        if content:
            self._action.resumes.value += 1
        if kept < content:
            self._action.rewinds.value += 1

    def yielded(self, count: int, size_bytes: int, now: float) -> None:
        """``count`` chunks came at once."""
        action = self._action
        action.chunks.value += count
        action.payload_bytes.value += size_bytes
        if self._yielded:
            action.between_chunks.observe((now - self.last_at) / count, count)
        else:
            self._yielded = True
            self._observe(action.first_chunk, now - self._begun_at)
        self.last_at = now

    def pause(self, paused: bool, now: float) -> None:
        """The action is held, or goes on."""
        self.paused = paused
        self.last_at = now

    def paced(self, limited: bool, *, slower: bool | None = None) -> None:
        """Its rate is limited because of its readers, or not; ``slower`` than before, faster, or (None) as it was."""
        self.is_paced = limited
        if slower is not None:
            self._action.pace_changes["slower" if slower else "faster"].value += 1

    def end(self, now: float) -> None:
        """The action has ended."""
        if self in self._action.running:
            self._action.running.remove(self)
            self._observe(self._action.seconds, now - self._begun_at)

    def _observe(self, spread: Spread, seconds: float) -> None:
        if self._trace_id:
            spread.exemplify(Exemplar(self._trace_id, seconds, self._clock.now_us() / 1e6))
        else:
            spread.observe(seconds)
