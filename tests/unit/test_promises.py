"""Promises that no single room keeps: nothing is unpickled, the floors are those of the stubs, versions are pinned."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("client", "models", "insight", "store", "service", "worker")
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) if "/v1/" not in str(path)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

UNPICKLERS = {
    "torch.load",
    "torch.export.load",
    "torch.jit.load",
    "np.load",
    "numpy.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}
PICKLE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_unpickles_anything(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not PICKLE_MODULES & {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in PICKLE_MODULES
        elif isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in UNPICKLERS, f"line {node.lineno}"


def test_the_floors_are_those_of_the_generated_stubs() -> None:
    stub = (ROOT / "client/gradsight/v1/training_service_pb2_grpc.py").read_text()
    (generated,) = re.findall(r"GRPC_GENERATED_VERSION = '([\d.]+)'", stub)
    message = (ROOT / "client/gradsight/v1/job_pb2.py").read_text()
    (protobuf,) = re.findall(r"# Protobuf Python Version: (\d+\.\d+)\.", message)
    floors = {Requirement(text).name: str(Requirement(text).specifier) for text in PROJECT["dependencies"]}
    assert floors["grpcio"] == f">={generated}"
    assert f">={protobuf}" in floors["protobuf"]


def test_every_dependency_is_pinned_exactly_and_no_registry_is_named() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), lines
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    extras = PROJECT["optional-dependencies"].values()
    wanted = {
        Requirement(text).name.lower() for texts in [PROJECT["dependencies"], *extras] for text in texts
    }
    assert wanted - {"gradsight"} <= pinned


def test_every_package_says_what_lives_there() -> None:
    for init in sorted(ROOT.glob("*/gradsight*/__init__.py")):
        docstring = ast.get_docstring(ast.parse(init.read_text()))
        assert docstring is not None, init
        assert len(docstring.splitlines()) >= 3, init
