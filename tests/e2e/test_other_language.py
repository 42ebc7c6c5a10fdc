"""Clients that know the contract only: Node from the `.proto` files, and Python by asking the service for it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import ROOT, Datasets, Household

NODE_EXAMPLE = ROOT / "examples" / "node"
REFLECTION_CLIENT = Path(__file__).parent / "programs" / "reflection_client.py"


@pytest.mark.timeout(240)  # with the installation
def test_a_node_program_trains_with_the_proto_files_alone(household: Household, datasets: Datasets) -> None:
    node = _node()
    command = [node, "train.mjs", str(datasets.texts), "text", "intent", household.service]
    ran = subprocess.run(command, cwd=NODE_EXAMPLE, capture_output=True, text=True, timeout=90, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    created, *events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["state"] == "JOB_STATE_SUCCEEDED"
    kinds = {event["kind"] for event in events}
    assert {
        "state_changed",
        "data_prepared",
        "model_built",
        "steps_recorded",
        "evaluation_completed",
    } <= kinds
    with household.client() as client:
        assert client.job(created["created"]).get().name == "from-node"


def test_a_client_that_asks_the_service_for_the_contract_trains_with_that_alone(
    household: Household, datasets: Datasets
) -> None:
    command = [sys.executable, str(REFLECTION_CLIENT), household.service, str(datasets.texts)]
    command += ["text", "intent"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("JOB_STATE_SUCCEEDED ")


def _node() -> str:
    node, npm = shutil.which("node"), shutil.which("npm")
    if os.environ.get("CI") and npm is not None:
        subprocess.run([npm, "install", "--no-audit", "--no-fund"], cwd=NODE_EXAMPLE, check=True, timeout=100)
    if node is None or not (NODE_EXAMPLE / "node_modules").is_dir():
        pytest.skip("needs node, and `npm install` in examples/node")
    return node
