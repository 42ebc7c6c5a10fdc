"""Generate the Python stubs from protos/, or check that the committed ones are fresh.

    python scripts/gen_protos.py            write the stubs
    python scripts/gen_protos.py --check    compare only; names each stale file and exits with 1

The generator is pinned old on purpose (the `protos` dependency group): its versions set the floor of grpcio and
protobuf for everyone who installs gradsight.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGES = {"gradsight/v1": ROOT / "client", "gradsight_store/v1": ROOT / "store"}


def main() -> int:
    """Write or compare the stubs; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed stubs, write nothing"
    )
    check = parser.parse_args().check
    stale: list[str] = []
    for package, root in PACKAGES.items():
        with tempfile.TemporaryDirectory() as scratch:
            generate(package, Path(scratch))
            stale += install(Path(scratch) / package, root / package, check)
    for name in stale:
        print(f"stale: {name}: run `make protos`", file=sys.stderr)
    return 1 if stale else 0


def generate(package: str, out: Path) -> None:
    """Run protoc over one package into `out`. Service stubs come only from `*_service.proto`."""
    files = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / package).glob("*.proto"))
    services = [name for name in files if name.endswith("_service.proto")]
    protoc(files, f"--python_out={out}", f"--mypy_out={out}")
    if services:
        protoc(services, f"--grpc_python_out={out}", f"--mypy_grpc_out={out}")


def protoc(files: list[str], *options: str) -> None:
    """Call protoc with this interpreter's plugins on the path."""
    plugins = Path(sys.executable).parent
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *options]
    command += [f"--plugin={name}={plugins / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    subprocess.run([*command, *files], check=True, cwd=PROTOS)


def install(fresh: Path, committed: Path, check: bool) -> list[str]:
    """Bring `committed` in line with `fresh`; with `check`, only return what differs."""
    wanted = {path.name: path.read_bytes() for path in fresh.iterdir()}
    origin = f"protos/{committed.parent.name}/v1"
    wanted["__init__.py"] = (
        f'"""Generated from {origin} by scripts/gen_protos.py. Never edited."""\n'.encode()
    )
    files = [path for path in committed.iterdir() if path.is_file()] if committed.exists() else []
    present = {path.name: path.read_bytes() for path in files}
    differing = sorted(
        name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)
    )
    if not check:
        committed.mkdir(parents=True, exist_ok=True)
        for name in differing:
            if name in wanted:
                (committed / name).write_bytes(wanted[name])
            else:
                (committed / name).unlink()
    return [str((committed / name).relative_to(ROOT)) for name in differing] if check else []


if __name__ == "__main__":
    sys.exit(main())
