"""PUBLIC: the Python client. :class:`Client` submits, follows and cancels; the frames of a stream are typed values."""

from apexstream.client.client import Client
from apexstream.client.frames import (
    Cancelled,
    Complete,
    EndFrame,
    Error,
    Frame,
    Progress,
    ProgressReport,
    Rewind,
    Update,
    decode_frame,
    encode_frame,
)
from apexstream.client.model import Action, DeadLetter, Graph, Offer, PipelineInfo, Queue, Task, Why
from apexstream.client.patience import ReconnectPolicy
from apexstream.client.problems import Problem, RemoteError
from apexstream.client.queue import EnhancedTaskQueue, result_of, stream_of
from apexstream.client.statistics import ActionStats, Anomaly, Stats, StatsWindow, StreamingMetricsCollector, Trend
from apexstream.core.options import TaskOptions
from apexstream.core.scheduling import Reschedule, Scheduling
from apexstream.core.task import TaskStatus

__all__ = [
    "Action",
    "ActionStats",
    "Anomaly",
    "Cancelled",
    "Client",
    "Complete",
    "DeadLetter",
    "EndFrame",
    "EnhancedTaskQueue",
    "Error",
    "Frame",
    "Graph",
    "Offer",
    "PipelineInfo",
    "Problem",
    "Progress",
    "ProgressReport",
    "Queue",
    "ReconnectPolicy",
    "RemoteError",
    "Reschedule",
    "Rewind",
    "Scheduling",
    "Stats",
    "StatsWindow",
    "StreamingMetricsCollector",
    "Task",
    "TaskOptions",
    "TaskStatus",
    "Trend",
    "Update",
    "Why",
    "decode_frame",
    "encode_frame",
    "result_of",
    "stream_of",
]
