"""``apexstream up``: the whole platform on this machine, supervised by this process."""

import asyncio
import errno
import os
import socket
from dataclasses import asdict, dataclass

import msgspec

from apexstream.cli.exits import ExitCode
from apexstream.cli.first_run import FirstRun, run_first
from apexstream.cli.output import say, write_data, write_json
from apexstream.cli.platform import Addresses, Platform
from apexstream.cli.restarts import RestartPolicy
from apexstream.cli.running import Note, Running, only_one
from apexstream.cli.signals import Interruptions, first_of, interruptions
from apexstream.cli.timings import Timings
from apexstream.core.errors import InvalidConfiguration
from apexstream.runtime.clock import SystemClock
from apexstream.runtime.logs import configure_logs
from apexstream.runtime.settings import Settings, load_settings

__all__ = ["FirstRun", "Plan", "up"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line asked for."""

    port: int | None = None
    first: FirstRun | None = None
    timings: bool = False

    @property
    def once(self) -> bool:
        """Stop when the first run has ended."""
        return self.first is not None and self.first.once


def up(plan: Plan) -> ExitCode:
    """Start everything, serve until a signal (or the end of the first run), stop everything."""
    timings = Timings()
    settings = load_settings()
    if plan.port is not None:
        settings = settings.model_copy(update={"port": plan.port})
    configure_logs(settings, service="up")
    with only_one(settings.home_path) as note:
        check_port(settings)
        return asyncio.run(_up(settings, plan, note, timings))


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


async def _up(settings: Settings, plan: Plan, note: Note, timings: Timings) -> ExitCode:
    with interruptions() as interrupted:
        platform = Platform(settings, clock=SystemClock(), timings=timings, policy=RestartPolicy())
        try:
            return await first_of(_serve(platform, plan, note, timings), _interrupt(plan, interrupted, timings))
        finally:
            await _stop(platform, interrupted)
            _show_timings(plan, timings)


async def _serve(platform: Platform, plan: Plan, note: Note, timings: Timings) -> ExitCode:
    addresses = await platform.start()
    note.write(Running(pid=os.getpid(), url=addresses.url, bootstrap_servers=addresses.kafka))
    _announce(addresses, plan)
    if plan.first is None:
        _show_timings(plan, timings)
        return await _keep(platform)
    return await first_of(_first(addresses, plan, plan.first, timings), _keep(platform))


async def _first(addresses: Addresses, plan: Plan, first: FirstRun, timings: Timings) -> ExitCode:
    code = await run_first(addresses.url, first, timings)
    if not first.once:
        _show_timings(plan, timings)
        say(f"everything goes on at {addresses.url}; Ctrl-C stops it")
        await asyncio.Event().wait()
    return code


async def _keep(platform: Platform) -> ExitCode:
    await platform.keep()
    return ExitCode.FAILED


async def _interrupt(plan: Plan, interrupted: Interruptions, timings: Timings) -> ExitCode:
    code = await interrupted.get()
    say("stopping everything in order; a second Ctrl-C kills it")
    # Being told to stop is how a server ends well; a first run, or a start, that is cut short did not do its work.
    served = "all ready" in timings.seconds() and not plan.once
    return ExitCode.OK if served else code


async def _stop(platform: Platform, interrupted: Interruptions) -> None:
    stopping = asyncio.ensure_future(platform.stop())
    again = asyncio.ensure_future(interrupted.get())
    await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        say("killing everything")
        platform.kill()
        os._exit(again.result())
    again.cancel()
    stopping.result()


def _announce(addresses: Addresses, plan: Plan) -> None:
    if plan.first is not None and plan.first.output == "json":
        write_json({"type": "ready", **asdict(addresses)})
        return
    write_data(f"ApexStream is ready: {addresses.url}  WebSocket {addresses.websocket}  Kafka {addresses.kafka}")


def _show_timings(plan: Plan, timings: Timings) -> None:
    if plan.timings:
        say(msgspec.json.encode({"timings": timings.seconds()}).decode())
