"""Every metric of the platform, declared once. ``docs/metrics.md`` is made from this file.

Names begin with ``apexstream_`` and end with the base unit (``_total`` for counters). No label ever holds the id of a stream,
a task, a client or a viewer: such values have no end, and each would be a time series for ever. What belongs to one stream is
found through the exemplars' trace ids, and in ``GET /stats``.
"""

from typing import Final

from apexstream.runtime.instruments import Declared

METERS: Final = Declared()
_counter, _gauge, _histogram = METERS.counter, METERS.gauge, METERS.histogram

_ACTION = ("plugin", "action")
_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)

# Pipelines, counted by the processors that run them.
PIPELINE_JOBS = _gauge("apexstream_pipeline_jobs", "jobs", "Parts of pipelines that run here and have not ended.")
PIPELINE_RECORDS = _counter("apexstream_pipeline_records_total", "records", "Records of work that jobs took.")
PIPELINE_CHUNKS = _counter(
    "apexstream_pipeline_chunks_total",
    "chunks",
    "Chunks that jobs took of their inputs (in), and wrote to outputs (out) and side outputs (late, failed).",
    "way",
)
PIPELINE_WAITING = _gauge(
    "apexstream_pipeline_waiting_chunks", "chunks", "Chunks that were brought to jobs and wait for their step."
)
PIPELINE_LAG = _gauge(
    "apexstream_pipeline_lag_seconds",
    "seconds",
    "Age of the oldest chunk that waits for its job: how far the job that is furthest behind is behind. 0: none waits.",
)
PIPELINE_ROWS = _gauge("apexstream_pipeline_rows", "rows", "Rows of state that are held here, of all jobs.")
PIPELINE_RESTORE = _histogram(
    "apexstream_pipeline_restore_seconds",
    "seconds",
    "From a rebalance to the recovery of the rows of all partitions that came of it.",
    bounds=_SLOW,
)
PIPELINE_RESTARTS = _counter(
    "apexstream_pipeline_agent_restarts_total", "restarts", "Agents that had stopped consuming and were started again."
)

# Tasks that meet, counted by the runners that run them.
COORDINATION = _counter(
    "apexstream_coordination_questions_total",
    "questions",
    "What actions asked of other tasks and were told: ok, or the code of an error.",
    "ask",
    "told",
)
COORDINATION_WAITING = _gauge(
    "apexstream_coordination_waiting_questions", "questions", "Those that wait for other tasks now."
)
COORDINATION_SCOPES = _gauge("apexstream_coordination_scopes", "scopes", "Scopes whose tasks run here.")

# Actions, counted by the runners that run them.
ACTION_CHUNKS = _counter("apexstream_action_chunks_total", "chunks", "Chunks that actions yielded.", *_ACTION)
ACTION_BYTES = _counter("apexstream_action_payload_bytes_total", "bytes", "Payload of these chunks.", *_ACTION)
ACTION_FIRST_CHUNK = _histogram(
    "apexstream_action_first_chunk_seconds",
    "seconds",
    "From the start of an attempt to its first chunk.",
    *_ACTION,
    bounds=_SLOW,
)
ACTION_BETWEEN_CHUNKS = _histogram(
    "apexstream_action_between_chunks_seconds",
    "seconds",
    "Time between chunks of a stream; chunks that came together share the time since the ones before evenly.",
    *_ACTION,
    bounds=_FAST,
)
ACTION_SECONDS = _histogram(
    "apexstream_action_duration_seconds",
    "seconds",
    "How long attempts took, however they ended.",
    *_ACTION,
    bounds=_SLOW,
)
ACTION_ACTIVE = _gauge("apexstream_action_active_streams", "streams", "Streams that an action writes now.", *_ACTION)
ACTION_STALLED = _gauge(
    "apexstream_action_stalled_streams",
    "streams",
    "Those of them that had no chunk for a minute and are not paused.",
    *_ACTION,
)
ACTION_PACED = _gauge(
    "apexstream_action_paced_streams",
    "streams",
    "Adaptive streams whose rate is limited now because readers are behind.",
    *_ACTION,
)
ACTION_PACE_CHANGES = _counter(
    "apexstream_action_pace_changes_total",
    "changes",
    "How often such a rate was changed: slower, faster.",
    *_ACTION,
    "way",
)
ACTION_ATTEMPTS = _counter("apexstream_action_attempts_total", "attempts", "Attempts that began.", *_ACTION)
ACTION_ENDS = _counter(
    "apexstream_action_ends_total",
    "tasks",
    "Tasks that ended in this runner's hands: completed, failed, cancelled, or parked for another runner.",
    *_ACTION,
    "how",
)
ACTION_ERRORS = _counter(
    "apexstream_action_errors_total", "errors", "Attempts that failed, by the error's class.", *_ACTION, "error_class"
)
ACTION_RETRIES = _counter("apexstream_action_retries_total", "attempts", "Failures that are tried again.", *_ACTION)
ACTION_RESUMES = _counter(
    "apexstream_action_resumes_total", "attempts", "Attempts that went on with a stream that had content.", *_ACTION
)
ACTION_REWINDS = _counter(
    "apexstream_action_rewinds_total", "attempts", "Those of them that took content back first.", *_ACTION
)
DEAD_LETTERS = _counter(
    "apexstream_dead_letters_total", "tasks", "Tasks that failed for good.", *_ACTION, "error_class"
)
TASK_START = _histogram(
    "apexstream_task_start_seconds",
    "seconds",
    "From a task's submission to the start of its first attempt. Clocks of gateway and runner take part.",
    "tier",
    bounds=_SLOW,
)
RUNNER_CAPACITY = _gauge("apexstream_runner_capacity_tasks", "tasks", "Tasks that this runner takes at once.")
RUNNER_RUNNING = _gauge("apexstream_runner_running_tasks", "tasks", "Tasks that it has now.")
RUNNER_BUFFERED = _gauge(
    "apexstream_runner_buffered_bytes",
    "bytes",
    "Chunks of all its streams that a runner holds until Kafka has them; at APEX_RUNNER_BUFFER_MB actions wait.",
)

# The log, counted by whoever writes or reads it.
LOG_APPENDED = _counter(
    "apexstream_kafka_appended_records_total", "records", "Records that Kafka acknowledged.", "topic"
)
LOG_APPENDED_BYTES = _counter(
    "apexstream_kafka_appended_bytes_total", "bytes", "Keys and values handed to batches.", "topic"
)
LOG_APPEND = _histogram(
    "apexstream_kafka_append_seconds",
    "seconds",
    "From sending a batch to its acknowledgement by all in-sync replicas.",
    "topic",
    bounds=_FAST,
)
LOG_APPENDS_LOST = _counter(
    "apexstream_kafka_append_failures_total",
    "failures",
    "Appends whose outcome became unknown; a new producer was started each time.",
)
LOG_REQUEST = _histogram(
    "apexstream_kafka_request_seconds",
    "seconds",
    "How long Kafka took to answer: fetch (that does not wait for news), offsets, commit, pulse.",
    "request",
    bounds=_FAST,
)
LOG_FETCHED_BYTES = _counter(
    "apexstream_kafka_fetched_bytes_total", "bytes", "Batches as they came, compressed or not."
)
LOG_LAG = _gauge(
    "apexstream_kafka_lag_records",
    "records",
    "Records of a topic that this process follows and has not been handed yet, as of its last fetch.",
    "topic",
)
GROUP_LAG = _gauge(
    "apexstream_kafka_group_lag_records",
    "records",
    "Records of the partitions that this member of a consumer group owns and has not been given yet.",
    "group",
    "topic",
)
GROUP_PARTITIONS = _gauge(
    "apexstream_kafka_group_partitions", "partitions", "Partitions that this member owns now.", "group"
)
GROUP_REBALANCES = _counter(
    "apexstream_kafka_group_rebalances_total", "rebalances", "Assignments that this member was given.", "group"
)
KAFKA_BROKERS = _gauge(
    "apexstream_kafka_brokers", "brokers", "Brokers of the cluster that serve, as the last of them that answered says."
)
KAFKA_SILENCE = _gauge("apexstream_kafka_silence_seconds", "seconds", "Time since a broker last answered this process.")
VIOLATIONS = _counter(
    "apexstream_fold_violations_total",
    "records",
    "Records of the chunk log that break a rule of the fold, by the service that met them. Anything but 0 is a defect.",
    "service",
)

# The gateway.
VIEWER_LATENCY = _histogram(
    "apexstream_viewer_latency_seconds",
    "seconds",
    "From a plugin's yield to the moment at which the gateway hands the chunk to its viewers' sockets, once a run of chunks.",
    *_ACTION,
    bounds=_FAST,
)
VIEWERS = _gauge("apexstream_gateway_viewers", "connections", "Open viewer connections.", "protocol")
SLOW_CLOSES = _counter(
    "apexstream_gateway_slow_closes_total", "connections", "Viewers closed because they read too slowly.", "protocol"
)

DELIVERED = _counter(
    "apexstream_gateway_delivered_chunks_total",
    "chunks",
    "Live chunks handed to viewers, each as often as there were viewers.",
    "encoding",
)
DELIVERED_BYTES = _counter(
    "apexstream_gateway_delivered_bytes_total", "bytes", "Their frames, as often as they were handed over.", "encoding"
)
REPLAY = _histogram(
    "apexstream_gateway_replay_seconds",
    "seconds",
    "From a subscription to the moment at which the viewer follows the live tail, or the stream's end.",
    bounds=_SLOW,
)
REQUESTS = _histogram(
    "apexstream_gateway_request_seconds",
    "seconds",
    "HTTP requests, by route and status.",
    "route",
    "status",
    bounds=_FAST,
)

# The dispatcher. Only the active one has numbers; those of a standby are 0.
DISPATCHER_ACTIVE = _gauge("apexstream_dispatcher_active", "dispatchers", "1 while this dispatcher decides, else 0.")
DISPATCHER_TERMS = _counter("apexstream_dispatcher_terms_total", "terms", "Times that it became the active one.")
DISPATCHER_READY = _gauge(
    "apexstream_dispatcher_ready_tasks", "tasks", "Tasks that only wait for their turn. More wait in Kafka.", "tier"
)
DISPATCHER_OLDEST = _gauge(
    "apexstream_dispatcher_oldest_ready_seconds", "seconds", "How long the oldest of them has waited.", "tier"
)
DISPATCHER_WORST_WAIT = _gauge(
    "apexstream_dispatcher_worst_wait_slots",
    "slots",
    "How many slots have to become free, at worst, before a task that becomes ready now is given to a runner.",
    "tier",
)
DISPATCHER_WAIT = _histogram(
    "apexstream_dispatcher_wait_seconds",
    "seconds",
    "From a task's submission to its assignment.",
    "tier",
    bounds=_SLOW,
)
DISPATCHER_STUCK = _gauge(
    "apexstream_dispatcher_stuck_tasks", "tasks", "Tasks whose turn it is and that no runner can take now.", "tier"
)
DISPATCHER_HELD = _gauge(
    "apexstream_dispatcher_held_tasks", "tasks", "Tasks that wait for something else: upstreams, a time, a limit."
)
DISPATCHER_GIVEN = _gauge("apexstream_dispatcher_given_tasks", "tasks", "Tasks that runners have.")

# The archiver.
SEALED_CHUNKS = _counter("apexstream_archiver_sealed_chunks_total", "chunks", "Chunks sealed into segments.")
SEALED_SEGMENTS = _counter("apexstream_archiver_segments_total", "segments", "Segments written, index pages included.")
SEALED_BYTES = _counter("apexstream_archiver_segment_bytes_total", "bytes", "Their size, compressed.")
ARCHIVER_HELD = _gauge("apexstream_archiver_held_bytes", "bytes", "Unsealed chunks in memory, about.")
ARCHIVER_BEHIND = _gauge(
    "apexstream_archiver_unsealed_records", "records", "Records of the chunk log that are not sealed yet."
)
ARCHIVER_DEPOSED = _counter(
    "apexstream_archiver_interruptions_total", "interruptions", "Tenures that ended early and were begun again.", "why"
)
STREAMS_GONE = _counter("apexstream_archiver_streams_removed_total", "streams", "Streams expired or erased.", "why")
TRIMMED = _counter("apexstream_archiver_trimmed_records_total", "records", "Sealed records deleted from the chunk log.")

# Every process.
HOME_FREE = _gauge(
    "apexstream_home_free_bytes",
    "bytes",
    "Free space on the disk of APEX_HOME, where keys, indexes and the embedded broker's log lie.",
)
HOME_SIZE = _gauge("apexstream_home_size_bytes", "bytes", "Size of that disk.")
LOOP_DELAY = _histogram(
    "apexstream_loop_delay_seconds",
    "seconds",
    "How late the event loop ran a timer: what every other task had to wait for.",
    bounds=_FAST,
)
