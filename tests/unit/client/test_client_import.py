"""The package stays light, and its public names are what it says they are."""

import importlib.util
import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import gradsight

HEAVY = ("grpc", "torch", "redis", "rq", "numpy", "rich", "click", "yaml", "prometheus_client")


def _loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert _loaded_after("import gradsight").isdisjoint(HEAVY)


def test_using_every_public_name_still_loads_neither_grpc_nor_a_number_library() -> None:
    loaded = _loaded_after("import gradsight\nfor name in gradsight.__all__: getattr(gradsight, name)")
    assert loaded.isdisjoint(HEAVY)


def test_help_and_a_verbs_own_help_load_neither_grpc_nor_rich_nor_torch() -> None:
    for arguments in (["--help"], ["submit", "--help"], ["watch", "--help"]):
        code = f"import sys\nsys.argv = ['gradsight', *{arguments!r}]\nimport gradsight.cli\n"
        code += "try: gradsight.cli.main()\nexcept SystemExit: pass\nprint('MODULES', *sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        loaded = {name.split(".")[0] for name in done.stdout.split("MODULES")[1].split()}
        assert loaded.isdisjoint({"grpc", "rich", "torch", "numpy", "redis"}), arguments


def test_help_names_the_verbs_of_other_packages_without_importing_them() -> None:
    code = "import sys\nsys.argv = ['gradsight', '--help']\nimport gradsight.cli\n"
    code += "try: gradsight.cli.main()\nexcept SystemExit: pass\nprint('MODULES', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    page, loaded = done.stdout.split("MODULES")
    for verb in ("up", "down", "status", "serve", "worker", "exporter"):
        assert f"\n  {verb} " in page
    assert "gradsight_service" not in loaded
    assert "gradsight_worker" not in loaded


def test_public_names_are_sorted_and_each_can_be_had() -> None:
    assert gradsight.__all__ == sorted(gradsight.__all__)
    assert dir(gradsight) == gradsight.__all__
    for name in gradsight.__all__:
        assert getattr(gradsight, name) is not None


def test_every_public_class_of_the_modules_is_exported() -> None:
    homes = ("_client", "_enums", "_errors", "_events", "_job", "_reasons", "_records", "_retry", "_spec")
    for home in homes:
        module = importlib.import_module(f"gradsight.{home}")
        for name, value in vars(module).items():
            own = inspect.isclass(value) and value.__module__ == module.__name__
            assert not own or name.startswith("_") or name in gradsight.__all__, (
                f"{home}.{name} is not exported"
            )


def test_type_checkers_see_the_same_names_as_the_runtime() -> None:
    source = Path(gradsight.__file__).read_text()
    block = source.split("if TYPE_CHECKING:")[1].split("_MODULES")[0]
    seen = {name for name in gradsight.__all__ if f"{name},\n" in block or f"import {name}\n" in block}
    seen |= {name for name in gradsight.__all__ if any(name in line for line in block.splitlines())}
    assert set(gradsight.__all__) - seen == {"__version__", "load_result"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        _ = gradsight.Clinet


@pytest.mark.parametrize("module", ["gradsight._client", "gradsight.aio"])
def test_no_public_signature_shows_generated_code_or_grpc(module: str) -> None:
    for cls in (importlib.import_module(module).Client, importlib.import_module(module).JobHandle):
        for name, member in inspect.getmembers(cls, inspect.isfunction):
            if name.startswith("_") and name != "__init__":
                continue
            for annotation in typing.get_type_hints(member).values():
                assert "_pb2" not in str(annotation), f"{cls.__name__}.{name}"
                assert "grpc" not in str(annotation), f"{cls.__name__}.{name}"


def test_the_asyncio_client_has_the_verbs_and_arguments_of_the_ordinary_one() -> None:
    from gradsight import aio

    for sync, asynchronous in ((gradsight.Client, aio.Client), (gradsight.JobHandle, aio.JobHandle)):
        for name, member in inspect.getmembers(sync, inspect.isfunction):
            if name.startswith("__"):
                continue
            twin = getattr(asynchronous, name)
            assert inspect.signature(member).parameters.keys() == inspect.signature(twin).parameters.keys(), (
                name
            )


def test_without_the_models_a_result_says_which_extra_it_needs(tmp_path: Path) -> None:
    code = "import sys\nsys.modules['gradsight_models'] = None\nimport gradsight\n"
    code += "try: gradsight.load_result('x')\nexcept gradsight.MissingExtra as error: print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install 'gradsight[models]'" in done.stdout
