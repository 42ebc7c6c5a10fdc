"""`gradsight demo` shows what the README shows, and leaves nothing behind."""

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest
from tests.e2e.conftest import CLI, MARK, ROOT, processes_marked

from gradsight import load_result


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_prints_what_the_readme_shows_and_leaves_nothing_running(tmp_path: Path) -> None:
    mark, scratch = uuid.uuid4().hex, tmp_path / "scratch"
    scratch.mkdir()
    result = tmp_path / "result"
    command = [*CLI, "demo", "--to", str(result)]
    environ = {**os.environ, MARK: mark, "TMPDIR": str(scratch)}
    demo = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    left = processes_marked(mark)
    assert left == [], [process.cmdline() for process in left if psutil.pid_exists(process.pid)]
    # torch makes a cache directory in the process that loads the result, which is the user's own; workers leave none.
    assert [path for path in scratch.iterdir() if not path.name.startswith("torchinductor_")] == []
    for category in ("returns", "sizing"):
        before, after = _errors(demo.stdout, category)
        assert after < before, f"{category} did not get better"
    assert load_result(result).predict(["where is my refund"])[0].label
    output = tmp_path / "output"
    output.write_text(demo.stdout)
    _compare_with_readme(output)


def _errors(output: str, category: str) -> tuple[float, float]:
    """Test error in a category, in percent: last week's model and this week's."""
    found = re.search(rf"^ +{category} +\d+ +([\d.]+) % +([\d.]+) % ", output, re.MULTILINE)
    assert found is not None, output
    return float(found[1]), float(found[2])


def _compare_with_readme(output: Path) -> None:
    script = ROOT / "scripts/update_readme_demo.py"
    compared = subprocess.run(
        [sys.executable, script, "--compare", output], capture_output=True, text=True, check=False
    )
    assert compared.returncode == 0, f"run {script.relative_to(ROOT)}:\n{compared.stdout}{compared.stderr}"
