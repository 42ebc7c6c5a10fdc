"""The tree is searched for whatever turns bytes into running code; what is found stands on the one list below."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACES = (
    "client",
    "models",
    "insight",
    "store",
    "service",
    "worker",
    "scripts",
    "examples",
    "benchmarks",
    "tests",
)
SOURCES = [
    path
    for place in PLACES
    for path in sorted((ROOT / place).rglob("*.py"))
    if not path.stem.endswith(("_pb2", "_pb2_grpc")) and path != Path(__file__)
]

LOADERS = {
    "pickle": r"\b(c|_|cloud|un)?pickl\w*|\bdill\b|\bjoblib\b|\bshelve\b|\bmarshal\b",
    "a loader of torch": r"\b(torch|jit|export|serialization|package)\.(load|PackageImporter)\b|weights_only",
    "a loader of numpy": r"\b(np|numpy)\.(load|fromfile|DataSource)\b|allow_pickle=(?!False)",
    "a loader of yaml": r"\byaml\.(load|load_all|full_load|unsafe_load)\b",
    "evaluated text": r"(?<![\w.])(eval|exec|compile|execfile)\(|\bbuiltins\.(eval|exec|compile)\b|\bruncode\b",
    "a name imported from outside": r"\b__import__\(",
}

REVIEWED: dict[str, str] = {
    "tests/unit/test_graph.py": "puts code where a graph has names and numbers, to see it refused",
    "tests/unit/test_tensor_headers.py": "the first bytes of files that carry code, to see them known",
    "tests/e2e/test_no_code_runs.py": "makes canaries, and proves on one that unpickling would run them",
    "tests/integration/worker/test_worker_forged.py": "makes canaries for the worker's queue",
    "tests/unit/client/test_client_convert.py": "records may be pickled by their user; the bytes are the test's own",
    "tests/unit/client/test_client_errors.py": "errors cross process pools; the bytes are the test's own",
    "tests/unit/client/test_requirements.py": "requirements cross process pools; the bytes are the test's own",
    "tests/unit/test_promises.py": "names the modules that no source may import",
    "tests/unit/test_training_reading_arrays.py": "has a field of that name, which must stay a name",
    "tests/unit/test_store_errors.py": "errors cross process pools; the bytes are the test's own",
    "client/gradsight/_tensor_headers.py": "knows pickles by their first bytes, to refuse them",
    "client/gradsight/_yaml.py": "yaml.load with a loader of its own that is a SafeLoader",
}
"""Files that may name a loader, and why."""


class WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def code_of(path: Path) -> str:
    """The source without comments and docstrings; they may speak of what is not done."""
    return ast.unparse(WithoutDocstrings().visit(ast.parse(path.read_text())))


def named_in(path: Path) -> dict[str, str]:
    code = code_of(path)
    return {what: hit.group() for what, pattern in LOADERS.items() if (hit := re.search(pattern, code))}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_names_a_loader_that_runs_code(path: Path) -> None:
    if str(path.relative_to(ROOT)) not in REVIEWED:
        assert named_in(path) == {}


@pytest.mark.parametrize("name", REVIEWED)
def test_what_was_reviewed_still_names_one(name: str) -> None:
    assert named_in(ROOT / name)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from cloudpickle import loads",
        "importlib.import_module('pickle')",
        "torch.load(path)",
        "torch.jit.load(path)",
        "torch.export.load(path)",
        "np.load(path)",
        "read(path, allow_pickle=True)",
        "yaml.load(text)",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
    ],
)
def test_the_search_finds_what_it_is_for(tmp_path: Path, line: str) -> None:
    (tmp_path / "source.py").write_text(f'"""Docstring."""\n{line}\n')
    assert named_in(tmp_path / "source.py")


def test_the_search_passes_over_what_only_looks_alike(tmp_path: Path) -> None:
    (tmp_path / "source.py").write_text(
        '"""Nothing is unpickled."""\nmodel.eval()  # no pickle\nre.compile("a")\n'
    )
    assert named_in(tmp_path / "source.py") == {}
