"""``apexstream serve``: one service in this process."""

import os
import sys
from collections.abc import Callable
from importlib import import_module

import structlog

from apexstream.cli.exits import ExitCode, exit_code_for
from apexstream.cli.leash import Leash, Report
from apexstream.cli.running import kafka_servers
from apexstream.core.errors import ApexError, InvalidConfiguration
from apexstream.runtime.lifecycle import ABANDON_GRACE_S, Serve, run_service
from apexstream.runtime.logs import configure_logs
from apexstream.runtime.probes import expose
from apexstream.runtime.settings import Settings, load_settings
from apexstream.runtime.tracing import exported

SERVICES = ("gateway", "dispatcher", "runner", "archiver", "processors")


def serve(service: str, supervisor_fd: int | None) -> ExitCode:
    """Run ``service`` until it is told to stop; under a supervisor, its socket has the descriptor ``supervisor_fd``."""
    leash = None if supervisor_fd is None else Leash.adopt(supervisor_fd)
    try:
        work = _load(service)
        if leash is not None:
            os.environ.update(leash.wait_for_orders().environ)
        settings = load_settings()
        settings = settings.model_copy(update={"bootstrap_servers": kafka_servers(settings)})
        configure_logs(settings, service=service)
        with exported(service), expose(service, settings):
            return _run(work, settings, leash)
    except ApexError as problem:
        if leash is not None:
            leash.report(Report(failed=problem.as_dict()))
        raise


def _run(work: Serve, settings: Settings, leash: Leash | None) -> ExitCode:
    log = structlog.get_logger("apexstream.cli.serve")

    def ready(detail: str) -> None:
        log.info("ready", detail=detail)
        if leash is not None:
            leash.report(Report(ready=detail))

    def tie(stop: Callable[[], None]) -> None:
        if leash is not None:
            leash.hold(stop, give_up_s=settings.drain_timeout_s + 2 * ABANDON_GRACE_S)

    try:
        run_service(work, settings, ready=ready, tie=tie)
    except ApexError as problem:
        log.error("failed", error=problem.as_dict(), exc_info=settings.log_level == "debug")  # noqa: TRY400 - expected
        if leash is not None:
            leash.report(Report(failed=problem.as_dict()))
        return exit_code_for(problem)
    except Exception:
        log.exception("crashed")
        return ExitCode.INTERNAL
    log.info("stopped")
    return ExitCode.OK


def _load(service: str) -> Serve:
    try:
        work: Serve = import_module(f"apexstream.{service}.build").serve
    except ModuleNotFoundError as problem:
        if (problem.name or "").startswith("apexstream"):
            raise
        raise InvalidConfiguration(
            f"the {service} needs {problem.name}, which is not installed",
            where=sys.prefix,
            hint=f"Install apexstream[{service}]",
        ) from problem
    return work
