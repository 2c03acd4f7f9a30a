"""All that a plugin author imports: write an async generator, and its chunks are durable, resumable and live.

:class:`Plugin` and its ``action`` decorator are the short way; :class:`BasePlugin` is the class-based way. Both give the
same streams. :class:`PluginManager` finds installed plugins and runs an action without Kafka.
"""

from apexstream.core.errors import InvalidChunk, InvalidParameters, PluginFailed, UnknownAction
from apexstream.core.options import ErrorClass, TaskOptions
from apexstream.plugin.base import (
    ActionSpec,
    BasePlugin,
    CancellationToken,
    ProgressCallback,
    ProgressUpdate,
    ResumeMode,
)
from apexstream.plugin.coordination import Coordination, NotCoordinated, SharedValue
from apexstream.plugin.decorated import ActionContext, Plugin
from apexstream.plugin.errors import PermanentError, RateLimited, ResourceError, TransientError, classify
from apexstream.plugin.manager import PluginManager
from apexstream.plugin.operators import Stream, StreamComposer, StreamTransformer, stream
from apexstream.plugin.persistence import StreamPersistence
from apexstream.plugin.values import Chunk

__all__ = [
    "ActionContext",
    "ActionSpec",
    "BasePlugin",
    "CancellationToken",
    "Chunk",
    "Coordination",
    "ErrorClass",
    "InvalidChunk",
    "InvalidParameters",
    "NotCoordinated",
    "PermanentError",
    "Plugin",
    "PluginFailed",
    "PluginManager",
    "ProgressCallback",
    "ProgressUpdate",
    "RateLimited",
    "ResourceError",
    "ResumeMode",
    "SharedValue",
    "Stream",
    "StreamComposer",
    "StreamPersistence",
    "StreamTransformer",
    "TaskOptions",
    "TransientError",
    "UnknownAction",
    "classify",
    "stream",
]
