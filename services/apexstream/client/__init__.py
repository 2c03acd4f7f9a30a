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
from apexstream.client.model import Action, DeadLetter, Offer, Task
from apexstream.client.patience import ReconnectPolicy
from apexstream.client.problems import Problem, RemoteError
from apexstream.core.options import TaskOptions
from apexstream.core.task import TaskStatus
from apexstream.core.tiers import Tier

__all__ = [
    "Action",
    "Cancelled",
    "Client",
    "Complete",
    "DeadLetter",
    "EndFrame",
    "Error",
    "Frame",
    "Offer",
    "Problem",
    "Progress",
    "ProgressReport",
    "ReconnectPolicy",
    "RemoteError",
    "Rewind",
    "Task",
    "TaskOptions",
    "TaskStatus",
    "Tier",
    "Update",
    "decode_frame",
    "encode_frame",
]
