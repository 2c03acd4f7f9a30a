"""ApexStream: durable, resumable, live streams of plugin results on Apache Kafka.

Public packages: :mod:`apexstream.plugin` (write plugins), :mod:`apexstream.client` (submit and follow),
:mod:`apexstream.testing` (test plugins). Everything else is the platform; ``ARCHITECTURE.md`` is its map.
"""

__version__ = "0.1.0"
