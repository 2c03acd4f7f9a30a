"""The dashboards: which panels, which queries."""

from dashboards.generate.board import Board, Note, Panel, Query, Row, observations, quantile, rate, spread, total

from apexstream.runtime import meters as m

_SELECTED = 'plugin=~"$plugin", action=~"$action"'
_SERVICES = 'job=~"apexstream.*"'


def _share(part: str, whole: str) -> str:
    """``part`` of ``whole``, 0 where there is nothing of either."""
    return f"({part}) / clamp_min({whole}, 1e-9)"


_STALLED = _share(total(m.ACTION_STALLED), total(m.ACTION_ACTIVE))

OVERVIEW = Board(
    uid="apexstream-overview",
    title="ApexStream: overview",
    meaning="Is it well, how much goes through, how fast do viewers see it.",
    rows=(
        Row(
            title="Now",
            panels=(
                Panel(
                    title="Processes that answer",
                    meaning="Scrape targets that are up.",
                    number=True,
                    width=4,
                    queries=(Query("sum(up{" + _SERVICES + "})"),),
                ),
                Panel(
                    title="Active streams",
                    meaning="Streams that actions write now.",
                    number=True,
                    width=4,
                    queries=(Query(total(m.ACTION_ACTIVE)),),
                ),
                Panel(
                    title="Stalled",
                    meaning="Share of them without a chunk for a minute.",
                    unit="percentunit",
                    number=True,
                    width=4,
                    queries=(Query(_STALLED),),
                ),
                Panel(
                    title="Viewers",
                    meaning="Open viewer connections.",
                    number=True,
                    width=4,
                    queries=(Query(total(m.VIEWERS)),),
                ),
                Panel(
                    title="Chunks a second",
                    meaning="Yielded by actions.",
                    number=True,
                    width=4,
                    queries=(Query(rate(m.ACTION_CHUNKS)),),
                ),
                Panel(
                    title="Yield to viewer, p99",
                    meaning="From a plugin's yield to the gateway's hand-over.",
                    unit="s",
                    number=True,
                    width=4,
                    queries=(Query(quantile(0.99, m.VIEWER_LATENCY)),),
                ),
            ),
        ),
        Row(
            title="Work",
            panels=(
                Panel(
                    title="Chunks",
                    meaning="Chunks a second by plugin.",
                    unit="cps",
                    queries=(Query(rate(m.ACTION_CHUNKS, "plugin"), "{{plugin}}"),),
                ),
                Panel(
                    title="Tasks that end",
                    meaning="Tasks a second by how they ended.",
                    unit="ops",
                    queries=(Query(rate(m.ACTION_ENDS, "how"), "{{how}}"),),
                ),
                Panel(
                    title="From submission to start",
                    meaning="How long tasks wait, by tier.",
                    unit="s",
                    queries=spread(m.TASK_START, "tier"),
                ),
                Panel(
                    title="Yield to viewer",
                    meaning="From a plugin's yield to the gateway's hand-over, once a run of chunks.",
                    unit="s",
                    queries=spread(m.VIEWER_LATENCY),
                ),
                Panel(
                    title="Errors",
                    meaning="Failed attempts a second, by class.",
                    unit="ops",
                    queries=(Query(rate(m.ACTION_ERRORS, "error_class"), "{{error_class}}"),),
                ),
                Panel(
                    title="Runners",
                    meaning="Tasks that runners have, and could have.",
                    queries=(
                        Query(total(m.RUNNER_RUNNING), "running"),
                        Query(total(m.RUNNER_CAPACITY), "capacity"),
                    ),
                ),
            ),
        ),
        Row(
            title="Processes",
            panels=(
                Panel(
                    title="CPU",
                    meaning="Cores in use by process.",
                    queries=(Query("rate(process_cpu_seconds_total{" + _SERVICES + "}[$__rate_interval])", "{{job}}"),),
                ),
                Panel(
                    title="Memory",
                    meaning="Resident memory by process.",
                    unit="bytes",
                    queries=(Query("process_resident_memory_bytes{" + _SERVICES + "}", "{{job}}"),),
                ),
                Panel(
                    title="Event loop",
                    meaning="How late the loop runs its timers, p99 by process.",
                    unit="s",
                    queries=(Query(quantile(0.99, m.LOOP_DELAY, "job"), "{{job}}"),),
                ),
                Panel(
                    title="Disk",
                    meaning="Free share of the disk of APEX_HOME, by process.",
                    unit="percentunit",
                    queries=(Query(f"{m.HOME_FREE.declaration.name} / {m.HOME_SIZE.declaration.name}", "{{job}}"),),
                ),
            ),
        ),
    ),
)

STREAMS = Board(
    uid="apexstream-streams",
    title="ApexStream: streams and plugins",
    meaning="What each action yields, how steadily, and how it fails.",
    variables=(("plugin", m.ACTION_CHUNKS), ("action", m.ACTION_CHUNKS)),
    rows=(
        Row(
            title="Output",
            panels=(
                Panel(
                    title="Chunks",
                    meaning="Chunks a second.",
                    unit="cps",
                    queries=(
                        Query(rate(m.ACTION_CHUNKS, "plugin", "action", where=_SELECTED), "{{plugin}}.{{action}}"),
                    ),
                ),
                Panel(
                    title="Payload",
                    meaning="Bytes a second.",
                    unit="Bps",
                    queries=(
                        Query(rate(m.ACTION_BYTES, "plugin", "action", where=_SELECTED), "{{plugin}}.{{action}}"),
                    ),
                ),
                Panel(
                    title="Active and stalled streams",
                    meaning="Streams that are written now, and those without a chunk for a minute.",
                    queries=(
                        Query(total(m.ACTION_ACTIVE, "plugin", "action", where=_SELECTED), "{{plugin}}.{{action}}"),
                        Query(
                            total(m.ACTION_STALLED, "plugin", "action", where=_SELECTED),
                            "{{plugin}}.{{action}} stalled",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Time",
            panels=(
                Panel(
                    title="To the first chunk",
                    meaning="From an attempt's start.",
                    unit="s",
                    queries=spread(m.ACTION_FIRST_CHUNK, "action", where=_SELECTED),
                ),
                Panel(
                    title="Between chunks",
                    meaning="Chunks that came together share the time since the ones before.",
                    unit="s",
                    queries=spread(m.ACTION_BETWEEN_CHUNKS, "action", where=_SELECTED),
                ),
                Panel(
                    title="Duration of attempts",
                    meaning="How long they took, however they ended.",
                    unit="s",
                    queries=spread(m.ACTION_SECONDS, "action", where=_SELECTED),
                ),
                Panel(
                    title="Slowed down for readers",
                    meaning="Adaptive streams that are limited now, and changes of their rates a second.",
                    queries=(
                        Query(total(m.ACTION_PACED, "action", where=_SELECTED), "{{action}} limited"),
                        Query(rate(m.ACTION_PACE_CHANGES, "way", where=_SELECTED), "{{way}}"),
                    ),
                ),
                Panel(
                    title="Attempts begun",
                    meaning="A second.",
                    unit="ops",
                    queries=(Query(rate(m.ACTION_ATTEMPTS, "action", where=_SELECTED), "{{action}}"),),
                ),
            ),
        ),
        Row(
            title="Trouble",
            panels=(
                Panel(
                    title="Errors by class",
                    meaning="Failed attempts a second.",
                    unit="ops",
                    queries=(
                        Query(
                            rate(m.ACTION_ERRORS, "action", "error_class", where=_SELECTED),
                            "{{action}} {{error_class}}",
                        ),
                    ),
                ),
                Panel(
                    title="Retries, resumes, rewinds",
                    meaning="Attempts a second that go on with a stream; a rewind takes content back from viewers.",
                    unit="ops",
                    queries=(
                        Query(rate(m.ACTION_RETRIES, where=_SELECTED), "retries"),
                        Query(rate(m.ACTION_RESUMES, where=_SELECTED), "resumes"),
                        Query(rate(m.ACTION_REWINDS, where=_SELECTED), "rewinds"),
                    ),
                ),
                Panel(
                    title="Dead letters",
                    meaning="Tasks that failed for good in the last hour.",
                    queries=(
                        Query(
                            f"sum by (action) (increase({m.DEAD_LETTERS.declaration.name}{{{_SELECTED}}}[1h]))",
                            "{{action}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Tasks that meet",
            panels=(
                Panel(
                    title="Questions to other tasks",
                    meaning="Answered a second, over all actions, by what was asked and told.",
                    unit="ops",
                    queries=(Query(rate(m.COORDINATION, "ask", "told"), "{{ask}} {{told}}"),),
                ),
                Panel(
                    title="Waiting for others",
                    meaning="Questions without an answer yet, and scopes whose tasks run.",
                    queries=(
                        Query(total(m.COORDINATION_WAITING), "questions"),
                        Query(total(m.COORDINATION_SCOPES), "scopes"),
                    ),
                ),
            ),
        ),
    ),
)

DISPATCHER = Board(
    uid="apexstream-dispatcher",
    title="ApexStream: dispatcher",
    meaning="What waits, how long, and what runners can take.",
    rows=(
        Row(
            title="Waiting",
            panels=(
                Panel(
                    title="Ready tasks",
                    meaning="Tasks that only wait for their turn; more wait in Kafka once there are 10,000 of a tier.",
                    queries=(Query(total(m.DISPATCHER_READY, "tier"), "{{tier}}"),),
                ),
                Panel(
                    title="Oldest ready task",
                    meaning="How long it has waited.",
                    unit="s",
                    queries=(Query(f"max by (tier) ({m.DISPATCHER_OLDEST.declaration.name})", "{{tier}}"),),
                ),
                Panel(
                    title="From submission to assignment",
                    meaning="Of tasks that were given to runners.",
                    unit="s",
                    queries=spread(m.DISPATCHER_WAIT, "tier"),
                ),
                Panel(
                    title="Bound of the wait",
                    meaning="Slots that have to become free, at worst, for a task that becomes ready now.",
                    queries=(Query(f"max by (tier) ({m.DISPATCHER_WORST_WAIT.declaration.name})", "{{tier}}"),),
                ),
                Panel(
                    title="Held and stuck",
                    meaning="Tasks that wait for something else, and tasks whose turn it is but that no runner can take.",
                    queries=(
                        Query(total(m.DISPATCHER_HELD), "held"),
                        Query(total(m.DISPATCHER_STUCK, "tier"), "stuck {{tier}}"),
                    ),
                ),
                Panel(
                    title="Submissions not read yet",
                    meaning="Records of the tier topics.",
                    queries=(Query(total(m.GROUP_LAG, "topic", where='group=~".*dispatchers"'), "{{topic}}"),),
                ),
            ),
        ),
        Row(
            title="Capacity",
            panels=(
                Panel(
                    title="Slots",
                    meaning="What runners could take, what they have, what the dispatcher has given.",
                    queries=(
                        Query(total(m.RUNNER_CAPACITY), "capacity"),
                        Query(total(m.RUNNER_RUNNING), "running"),
                        Query(total(m.DISPATCHER_GIVEN), "given"),
                    ),
                ),
                Panel(
                    title="Held by runners",
                    meaning="Chunks that wait for Kafka, over all streams of a runner; at its limit, actions wait.",
                    unit="bytes",
                    queries=(Query(total(m.RUNNER_BUFFERED, "instance"), "{{instance}}"),),
                ),
                Panel(
                    title="Active dispatcher",
                    meaning="One has 1, standbys 0; more than one for long would be a fault.",
                    queries=(Query(total(m.DISPATCHER_ACTIVE, "instance"), "{{instance}}"),),
                ),
                Panel(
                    title="Terms",
                    meaning="How often a dispatcher became the active one, in the last hour.",
                    queries=(Query(f"sum(increase({m.DISPATCHER_TERMS.declaration.name}[1h]))", "terms"),),
                ),
            ),
        ),
    ),
)

GATEWAY = Board(
    uid="apexstream-gateway",
    title="ApexStream: gateway",
    meaning="Viewers, deliveries, replay, requests.",
    rows=(
        Row(
            title="Viewers",
            panels=(
                Panel(
                    title="Viewers",
                    meaning="Open connections by protocol.",
                    queries=(Query(total(m.VIEWERS, "protocol"), "{{protocol}}"),),
                ),
                Panel(
                    title="Live chunks delivered",
                    meaning="A second, each as often as there are viewers.",
                    unit="cps",
                    queries=(Query(rate(m.DELIVERED, "encoding"), "{{encoding}}"),),
                ),
                Panel(
                    title="Bytes delivered",
                    meaning="A second.",
                    unit="Bps",
                    queries=(Query(rate(m.DELIVERED_BYTES, "encoding"), "{{encoding}}"),),
                ),
                Panel(
                    title="Yield to viewer",
                    meaning="From a plugin's yield to the hand-over to the viewers' sockets.",
                    unit="s",
                    queries=spread(m.VIEWER_LATENCY, "plugin"),
                ),
                Panel(
                    title="Replay",
                    meaning="From a subscription to the live tail, or the stream's end.",
                    unit="s",
                    queries=spread(m.REPLAY),
                ),
                Panel(
                    title="Closed because too slow",
                    meaning="Viewers a second.",
                    unit="ops",
                    queries=(Query(rate(m.SLOW_CLOSES, "protocol"), "{{protocol}}"),),
                ),
            ),
        ),
        Row(
            title="HTTP",
            panels=(
                Panel(
                    title="Requests",
                    meaning="A second, by route and status.",
                    unit="reqps",
                    width=12,
                    queries=(Query(observations(m.REQUESTS, "route", "status"), "{{route}} {{status}}"),),
                ),
                Panel(
                    title="Time to answer, p99",
                    meaning="By route.",
                    unit="s",
                    width=12,
                    queries=(Query(quantile(0.99, m.REQUESTS, "route"), "{{route}}"),),
                ),
            ),
        ),
    ),
)

KAFKA = Board(
    uid="apexstream-kafka",
    title="ApexStream: Kafka, archiver and processors",
    meaning="The log from its clients' side, and those who live off it.",
    rows=(
        Row(
            title="Appends and reads",
            panels=(
                Panel(
                    title="Records appended",
                    meaning="A second, by topic.",
                    unit="ops",
                    queries=(Query(rate(m.LOG_APPENDED, "topic"), "{{topic}}"),),
                ),
                Panel(
                    title="Acknowledgement",
                    meaning="From sending a batch to its acknowledgement by all in-sync replicas.",
                    unit="s",
                    queries=spread(m.LOG_APPEND),
                ),
                Panel(
                    title="Answers, p99",
                    meaning="How long Kafka took, by request.",
                    unit="s",
                    queries=(Query(quantile(0.99, m.LOG_REQUEST, "request"), "{{request}}"),),
                ),
                Panel(
                    title="Bytes",
                    meaning="A second: appended before, fetched after compression.",
                    unit="Bps",
                    queries=(
                        Query(rate(m.LOG_APPENDED_BYTES), "appended"),
                        Query(rate(m.LOG_FETCHED_BYTES), "fetched"),
                    ),
                ),
                Panel(
                    title="Silence",
                    meaning="Time since a broker last answered, by process.",
                    unit="s",
                    queries=(Query(f"max by (job) ({m.KAFKA_SILENCE.declaration.name})", "{{job}}"),),
                ),
                Panel(
                    title="Brokers",
                    meaning="That serve, as the process says that sees the fewest.",
                    queries=(Query(f"min({m.KAFKA_BROKERS.declaration.name} > 0)", "brokers"),),
                ),
                Panel(
                    title="Appends of unknown outcome",
                    meaning="In the last hour; each starts a new producer.",
                    queries=(Query(f"sum(increase({m.LOG_APPENDS_LOST.declaration.name}[1h]))", "lost"),),
                ),
            ),
        ),
        Row(
            title="Lag",
            panels=(
                Panel(
                    title="Consumer groups",
                    meaning="Records that members have not been given yet.",
                    queries=(Query(total(m.GROUP_LAG, "group", "topic"), "{{group}} {{topic}}"),),
                ),
                Panel(
                    title="Followers",
                    meaning="Records of followed topics that were not handed over yet.",
                    queries=(Query(total(m.LOG_LAG, "job", "topic"), "{{job}} {{topic}}"),),
                ),
                Panel(
                    title="Partitions and rebalances",
                    meaning="Partitions owned by group, and assignments in the last hour.",
                    queries=(
                        Query(total(m.GROUP_PARTITIONS, "group"), "{{group}}"),
                        Query(
                            f"sum by (group) (increase({m.GROUP_REBALANCES.declaration.name}[1h]))",
                            "{{group}} rebalances",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Pipelines",
            panels=(
                Panel(
                    title="Chunks",
                    meaning="A second, that jobs took and wrote; late and failed ones go to side outputs.",
                    unit="cps",
                    queries=(Query(rate(m.PIPELINE_CHUNKS, "way"), "{{way}}"),),
                ),
                Panel(
                    title="Records of work",
                    meaning="A second; chunks over records is the size of runs, which is what Faust's speed depends on.",
                    unit="cps",
                    queries=(Query(rate(m.PIPELINE_RECORDS), "records"),),
                ),
                Panel(
                    title="Behind",
                    meaning="Age of the oldest chunk that waits for its job.",
                    unit="s",
                    queries=(Query(f"max by (instance) ({m.PIPELINE_LAG.declaration.name})", "{{instance}}"),),
                ),
                Panel(
                    title="Jobs and what they hold",
                    meaning="Jobs, rows of state, chunks that wait.",
                    queries=(
                        Query(total(m.PIPELINE_JOBS), "jobs"),
                        Query(total(m.PIPELINE_ROWS), "rows"),
                        Query(total(m.PIPELINE_WAITING), "chunks waiting"),
                    ),
                ),
                Panel(
                    title="Recovery",
                    meaning="From a rebalance to the recovery of the rows, in the last hour.",
                    unit="s",
                    queries=spread(m.PIPELINE_RESTORE, over="[1h]"),
                ),
                Panel(
                    title="Agents started again",
                    meaning="In the last hour: they had stopped consuming.",
                    queries=(Query(f"sum(increase({m.PIPELINE_RESTARTS.declaration.name}[1h]))", "restarts"),),
                ),
            ),
        ),
        Row(
            title="Archiver",
            panels=(
                Panel(
                    title="Sealed",
                    meaning="Chunks a second.",
                    unit="cps",
                    queries=(Query(rate(m.SEALED_CHUNKS), "chunks"), Query(rate(m.SEALED_SEGMENTS), "segments")),
                ),
                Panel(
                    title="Not sealed yet",
                    meaning="Records of the chunk log; it may not be trimmed before.",
                    queries=(Query(total(m.ARCHIVER_BEHIND), "records"),),
                ),
                Panel(
                    title="Held in memory",
                    meaning="Unsealed chunks.",
                    unit="bytes",
                    queries=(Query(total(m.ARCHIVER_HELD), "held"),),
                ),
                Panel(
                    title="Segments",
                    meaning="Bytes a second, compressed.",
                    unit="Bps",
                    queries=(Query(rate(m.SEALED_BYTES), "segments"),),
                ),
                Panel(
                    title="Removed",
                    meaning="In the last hour: streams that expired or were erased, records trimmed from the chunk log.",
                    queries=(
                        Query(f"sum by (why) (increase({m.STREAMS_GONE.declaration.name}[1h]))", "streams {{why}}"),
                        Query(f"sum(increase({m.TRIMMED.declaration.name}[1h]))", "records trimmed"),
                    ),
                ),
                Panel(
                    title="Interruptions and violations",
                    meaning="In the last hour. A violation of the fold is a defect, always.",
                    queries=(
                        Query(
                            f"sum by (why) (increase({m.ARCHIVER_DEPOSED.declaration.name}[1h]))",
                            "interrupted: {{why}}",
                        ),
                        Query(
                            f"sum by (service) (increase({m.VIOLATIONS.declaration.name}[1h]))",
                            "violations: {{service}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)

DRILL_DOWN = Board(
    uid="apexstream-stream",
    title="ApexStream: one stream",
    meaning="From a point in a panel to the one stream behind it.",
    variables=(("plugin", m.ACTION_CHUNKS), ("action", m.ACTION_CHUNKS)),
    boxes=(("gateway", "http://127.0.0.1:8080"), ("trace", "")),
    rows=(
        Row(
            title="Which stream",
            panels=(
                Note(
                    "The points in these panels are exemplars: single observations, each with the trace id of its task."
                    " Put one into **trace** above (or let the data source link it to your tracing system), then open"
                    " [its task](${gateway}/tasks?trace=${trace}), whose id is also its stream's. No metric has a stream's"
                    " id as a label: [its history](${gateway}/stats?trace=${trace}) comes from the gateway."
                ),
                Panel(
                    title="To the first chunk",
                    meaning="From an attempt's start; one exemplar a bucket.",
                    unit="s",
                    width=12,
                    queries=spread(m.ACTION_FIRST_CHUNK, where=_SELECTED),
                ),
                Panel(
                    title="Attempts",
                    meaning="How long they took; one exemplar a bucket.",
                    unit="s",
                    width=12,
                    queries=spread(m.ACTION_SECONDS, where=_SELECTED),
                ),
            ),
        ),
        Row(
            title="Its surroundings",
            panels=(
                Panel(
                    title="Yield to viewer",
                    meaning="Of all streams of this action.",
                    unit="s",
                    queries=spread(m.VIEWER_LATENCY, where=_SELECTED),
                ),
                Panel(
                    title="Chunks",
                    meaning="A second, of all streams of this action.",
                    unit="cps",
                    queries=(Query(rate(m.ACTION_CHUNKS, where=_SELECTED), "chunks"),),
                ),
                Panel(
                    title="Errors by class",
                    meaning="Failed attempts a second.",
                    unit="ops",
                    queries=(Query(rate(m.ACTION_ERRORS, "error_class", where=_SELECTED), "{{error_class}}"),),
                ),
            ),
        ),
    ),
)

BOARDS = (OVERVIEW, STREAMS, DISPATCHER, GATEWAY, KAFKA, DRILL_DOWN)
