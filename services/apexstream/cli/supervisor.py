"""What ``apexstream up`` does once its broker is on the way: bring everything up, run what was asked for, stop in order."""

import asyncio
import os
from dataclasses import asdict

import msgspec

from apexstream.cli.exits import ExitCode
from apexstream.cli.first_run import run_first
from apexstream.cli.kafka import Kafka
from apexstream.cli.output import say, write_data, write_json
from apexstream.cli.plan import FirstRun, Plan
from apexstream.cli.platform import Addresses, Platform
from apexstream.cli.restarts import RestartPolicy
from apexstream.cli.running import Note, Running
from apexstream.cli.signals import Interruptions, first_of, interruptions
from apexstream.cli.timings import Timings
from apexstream.runtime.clock import Clock
from apexstream.runtime.settings import Settings


async def supervise(
    settings: Settings, plan: Plan, *, kafka: Kafka, note: Note, clock: Clock, policy: RestartPolicy, timings: Timings
) -> ExitCode:
    """Serve until a signal, or the end of a first run that is to run once; then stop everything."""
    with interruptions() as interrupted:
        platform = Platform(settings, kafka=kafka, clock=clock, timings=timings, policy=policy)
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
    if plan.first.once:
        # Without one of its services the run might never end.
        return await first_of(run_first(addresses.url, plan.first, timings), _given_up(platform), _keep(platform))
    return await first_of(_first(addresses, plan, plan.first, timings), _keep(platform))


async def _first(addresses: Addresses, plan: Plan, first: FirstRun, timings: Timings) -> ExitCode:
    await run_first(addresses.url, first, timings)
    _show_timings(plan, timings)
    say(f"everything goes on at {addresses.url}; Ctrl-C stops it")
    await asyncio.Event().wait()
    return ExitCode.OK


async def _given_up(platform: Platform) -> ExitCode:
    await platform.given_up()
    return ExitCode.FAILED


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
