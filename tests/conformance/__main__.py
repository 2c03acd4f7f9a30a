"""``make conformance``: starts an ApexStream, runs the protocol's own suite and client against it, and counts.

``--short`` leaves out what takes long (time to live, property-based tests); other arguments go to vitest.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.kafka import kafka_under_test
from tests.support.system import ALL, processes
from tests.support.web import web_build

FOLDER = Path(__file__).resolve().parent
RUN_TIMEOUT_S = 900
SHORT = "^(?!.*(Property|TTL Expiration|Fork - TTL|Stress|State Hash))"  # of the full names of tests
ENVIRONMENT = {
    "APEX_LONG_POLL_S": "2",  # the suite gives a poll without news 5 s
    "APEX_ORIGINS": "https://example.com",  # whose page the suite pretends to be
}


def main(arguments: Sequence[str]) -> int:
    """Run and report; the exit code is 0 if no test failed."""
    os.environ.update(ENVIRONMENT)
    web = web_build()
    node = web.find_node(web.NODE_FOR_BUILD)
    _install(node)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["APEX_HOME"] = scratch
        report = Path(scratch) / "report.json"
        output = asyncio.run(_run(node, report, _vitest_arguments(arguments)))
        if not report.is_file():
            print(output, file=sys.stderr)
            return 1
        return _tell(json.loads(report.read_text()))


def _vitest_arguments(arguments: Sequence[str]) -> list[str]:
    rest = [argument for argument in arguments if argument != "--short"]
    return rest if len(rest) == len(arguments) else ["--testNamePattern", SHORT, *rest]


def _install(node: Any) -> None:
    """The pinned packages, once for each lock file."""
    wanted = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    stamp = FOLDER / "node_modules" / ".installed"
    if not stamp.is_file() or stamp.read_text() != wanted:
        subprocess.run(
            [*node.npm, "ci", "--prefer-offline"], cwd=FOLDER, env=_environment(node), check=True, timeout=600
        )
        stamp.write_text(wanted)


def _environment(node: Any) -> dict[str, str]:
    return os.environ | {"PATH": os.pathsep.join([str(node.program.parent), os.environ.get("PATH", "")])}


async def _run(node: Any, report: Path, arguments: Sequence[str]) -> str:
    vitest = FOLDER / "node_modules" / "vitest" / "vitest.mjs"
    command = [str(node.program), str(vitest), "run", "--reporter=json", f"--outputFile={report}", *arguments]
    with kafka_under_test() as kafka:
        async with processes(kafka, "apex.", *ALL) as url:
            done = await asyncio.to_thread(
                subprocess.run, command, cwd=FOLDER, env=_environment(node) | {"CONFORMANCE_URL": f"{url}/ds"},
                capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False,
            )  # fmt: skip
    return str(done.stdout + done.stderr)


def _tell(report: dict[str, Any]) -> int:
    tests = [(file["name"], test) for file in report["testResults"] for test in file["assertionResults"]]
    failed = [test for _, test in tests if test["status"] == "failed"]
    for test in failed:
        print(f"FAILED {test['fullName']}\n  {test['failureMessages'][0].splitlines()[0]}")
    for name in ("server.test.mjs", "client.test.mjs"):
        found = [test["status"] for file, test in tests if file.endswith(name)]
        passed, skipped = found.count("passed"), len(found) - found.count("passed") - found.count("failed")
        print(f"{name}: {passed} passed, {found.count('failed')} failed, {skipped} not run")
    subscriptions = [
        test for _, test in tests if "subscription" in test["fullName"].lower() and test["status"] != "passed"
    ]
    print(f"Not run: {len(subscriptions)} of subscriptions, an option of the protocol that the gateway does not offer")
    return 1 if failed or not any(test["status"] == "passed" for _, test in tests) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
