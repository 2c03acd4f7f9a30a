"""The import contracts hold, and each of them bites."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = Path(sys.executable).with_name("lint-imports")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(root / "services"), *(str(plugin / "src") for plugin in sorted((root / "plugins").iterdir()))]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}
    return subprocess.run(
        [LINT, "--no-cache", "--config", str(root / "pyproject.toml")],
        cwd=root,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_import_contracts_hold():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("services/apexstream/gateway/hub.py", "import apexstream.runner.service", "Imports point one way"),
        ("services/apexstream/core/fold.py", "import time", "Decisions do no I/O"),
        ("services/apexstream/gateway/hub.py", "import aiokafka", "Only the log package talks to aiokafka"),
        ("services/apexstream/runner/attempt.py", "import fastavro", "Only the codec reads Avro"),
        ("services/apexstream/gateway/pipelines.py", "import faust", "Only the processors use Faust"),
        ("services/apexstream/runner/attempt.py", "import starlette.routing", "Only the gateway serves HTTP"),
        (
            "plugins/apexstream-plugin-corpus/src/apexstream_plugin_corpus/__init__.py",
            "import apexstream.core.chunk",
            "Plugins import only",
        ),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, line: str, contract: str):
    for folder in ("services/apexstream", "plugins"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "page"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / file
    planted.write_text(f"{planted.read_text()}\n{line}\n")
    result = lint(tmp_path)
    assert result.returncode == 1
    broken = [row for row in result.stdout.splitlines() if row.rstrip().endswith("BROKEN")]
    assert len(broken) == 1, result.stdout
    assert contract in broken[0]
