"""``apexstream up``: the whole platform on this machine, supervised by this process.

The broker takes longest to start, so it is begun before the rest of the code is even loaded.
"""

import asyncio
import errno
import os
import socket

from apexstream.cli.exits import ExitCode
from apexstream.cli.plan import Plan
from apexstream.cli.restarts import RestartPolicy
from apexstream.cli.running import only_one
from apexstream.cli.timings import Timings
from apexstream.core.errors import InvalidConfiguration
from apexstream.runtime.clock import SystemClock
from apexstream.runtime.logs import configure_logs
from apexstream.runtime.settings import Settings, load_settings


def up(plan: Plan) -> ExitCode:
    """Start everything, serve until a signal (or the end of the first run), stop everything."""
    timings, clock, policy = Timings(), SystemClock(), RestartPolicy()
    settings = load_settings()
    if plan.port is not None:
        settings = settings.model_copy(update={"port": plan.port})
    configure_logs(settings, service="up")
    with only_one(settings.home_path) as note:
        check_port(settings)
        from apexstream.cli.kafka import Kafka

        kafka = Kafka(settings, clock=clock, policy=policy)
        kafka.boot()
        try:
            from apexstream.cli.supervisor import supervise

            timings.mark("code loaded")
            return asyncio.run(
                supervise(settings, plan, kafka=kafka, note=note, clock=clock, policy=policy, timings=timings)
            )
        finally:
            kafka.kill()  # only after a failure is there anything left


def check_port(settings: Settings) -> None:
    """Raise :class:`InvalidConfiguration` if the gateway could not listen, before anything is started for nothing."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as problem:
            taken = problem.errno == errno.EADDRINUSE
            raise InvalidConfiguration(
                f"port {settings.port} is taken" if taken else os.strerror(problem.errno or 0),
                where=f"gateway on {settings.host}:{settings.port}",
                hint="Choose another with --port or APEX_PORT; 0 takes any free one"
                if taken
                else "Choose another address with APEX_HOST",
            ) from None
