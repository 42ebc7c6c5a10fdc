"""Build the wheel, install it into an environment of its own and run the suite there, away from the sources.

Also proves the promise of the light base install: the wheel without extras brings only the base dependencies.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-wheel"
LIGHT = {
    "gradsight",
    "grpcio",
    "protobuf",
    "googleapis-common-protos",
    "typing-extensions",
    "pip",
    "setuptools",
}


def main() -> int:
    """Build, install, test; returns pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pip-args", default="", help="passed to every pip install")
    parser.add_argument("tests", nargs="*", help="what to run. Default: the whole suite")
    arguments = parser.parse_args()
    pip_args = shlex.split(arguments.pip_args)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build(Path(scratch))
        python = fresh_environment()
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *pip_args]
        constraints = ["-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, *constraints, "pip"], check=True)
        subprocess.run([*pip, *constraints, str(wheel)], check=True)
        check_light(python)
        subprocess.run(
            [*pip, *constraints, f"{wheel}[all]", "--group", f"{ROOT / 'pyproject.toml'}:dev"], check=True
        )
    # The suite reads examples, protos and docs of the checkout, but must import only what the wheel installed:
    # -P keeps the checkout off sys.path.
    command = [str(python), "-P", "-m", "pytest", "-p", "no:cacheprovider", *arguments.tests]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def build(out: Path) -> Path:
    """Build the wheel into `out` and return its path."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)], cwd=ROOT, check=True
    )
    (wheel,) = out.glob("*.whl")
    return wheel


def fresh_environment() -> Path:
    """Make an empty environment and return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    return ENVIRONMENT / "bin" / "python"


def check_light(python: Path) -> None:
    """Fail when the wheel without extras brought more than the light dependencies."""
    command = [str(python), "-m", "pip", "list", "--format=freeze"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True)
    installed = {line.split("==")[0].lower().replace("_", "-") for line in listing.stdout.split()}
    heavy = installed - LIGHT
    if heavy:
        sys.exit(f"the wheel without extras brought {sorted(heavy)}; allowed are {sorted(LIGHT)}")
    subprocess.run([str(python), "-P", "-c", "import gradsight; gradsight.Client"], check=True)


if __name__ == "__main__":
    sys.exit(main())
