"""The files of deploy/ agree with the code: pinned, not root, the verbs' own options, the code's own ports."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
IMAGES = sorted((DEPLOY / "images").glob("*.Dockerfile"))
PROMETHEUS = sorted((DEPLOY / "prometheus").glob("*.yml"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VERBS = ("service", "exporter", "worker")


def instructions(image: Path) -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction; continued lines joined, comments dropped."""
    lines = [line for line in image.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in joined.splitlines() if line.strip()]


def verb(name: str) -> click.Command:
    (entry,) = entry_points(group="gradsight.commands", name=name)
    command = entry.load()
    assert isinstance(command, click.Command)
    return command


def defaults_of(name: str) -> dict[str, Any]:
    return {parameter.name: parameter.default for parameter in verb(name).params if parameter.name}


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def targets(configuration: str) -> dict[str, list[str]]:
    jobs = yaml.safe_load((DEPLOY / "prometheus" / configuration).read_text())["scrape_configs"]
    found: dict[str, list[str]] = {}
    for job in jobs:
        fixed = [target for group in job.get("static_configs", ()) for target in group["targets"]]
        named = [
            f"{name}:{group['port']}" for group in job.get("dns_sd_configs", ()) for name in group["names"]
        ]
        found[job["job_name"]] = fixed + named
    return found


def test_there_is_an_image_file_for_each_part() -> None:
    assert [image.name.partition(".")[0] for image in IMAGES] == ["prometheus", "service", "store", "worker"]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_an_image_is_pinned_checked_and_not_root(image: Path) -> None:
    steps = instructions(image)
    bases = [arguments.split()[0] for keyword, arguments in steps if keyword == "FROM"]
    assert bases
    assert all(re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+[\w.-]*", base) for base in bases), bases
    users = [arguments for keyword, arguments in steps if keyword == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])
    after_user = [keyword for keyword, _ in steps[steps.index(("USER", users[-1])) :]]
    assert "RUN" not in after_user
    assert [keyword for keyword, _ in steps].count("HEALTHCHECK") == 1
    assert "ADD" not in {keyword for keyword, _ in steps}


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_an_image_copies_what_exists_and_what_the_context_admits(image: Path) -> None:
    admitted = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    for keyword, arguments in instructions(image):
        if keyword == "COPY" and "--from=" not in arguments:
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source.split("/")[0] in admitted, source


@pytest.mark.parametrize("image", [image for image in IMAGES if image.name.startswith(("service", "worker"))])
def test_a_python_image_installs_exact_versions_of_its_own_extra(image: Path) -> None:
    text = image.read_text()
    assert (
        f'--constraint constraints.txt --build-constraint constraints.txt ".[{image.name.partition(".")[0]}]"'
        in text
    )
    assert "ARG PIP_INDEX_URL" in text
    rooms = {path.parent.parent.name for path in ROOT.glob("*/gradsight*/__init__.py")}
    assert rooms <= {arguments.split()[0] for keyword, arguments in instructions(image) if keyword == "COPY"}


@pytest.mark.parametrize("path", [*IMAGES, *DEPLOY.glob("*.yaml")], ids=lambda path: path.name)
def test_no_file_names_a_package_registry(path: Path) -> None:
    assert not re.search(r"https?://(?!127\.0\.0\.1)", path.read_text())


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_hadolint_finds_nothing(image: Path) -> None:
    # From the environment that runs the suite, whether or not it is activated.
    linter = shutil.which(
        "hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if linter is None:
        pytest.skip("hadolint is not installed")
    subprocess.run([linter, str(image)], check=True, timeout=60)


@pytest.mark.parametrize("configuration", PROMETHEUS, ids=lambda path: path.name)
def test_prometheus_accepts_the_configuration(configuration: Path) -> None:
    if not shutil.which("promtool"):
        assert not os.environ.get("CI"), "promtool has to be there in CI"
        pytest.skip("promtool is not installed")
    subprocess.run(
        ["promtool", "check", "config", str(configuration)], check=True, timeout=60, capture_output=True
    )


def test_prometheus_scrapes_where_up_listens_by_default() -> None:
    up = defaults_of("up")
    assert targets("prometheus.yml") == {
        "gradsight-exporter": [up["exporter_address"]],
        "gradsight-service": [up["metrics_address"]],
        "gradsight-worker": [f"127.0.0.1:{up['worker_metrics_port']}"],
    }


def test_prometheus_scrapes_where_the_containers_listen() -> None:
    listening = {name: SERVICES[name]["command"] for name in VERBS}
    for job, addresses in targets("prometheus.compose.yml").items():
        (address,) = addresses
        name, _, number = address.partition(":")
        assert job == f"gradsight-{name}"
        command = listening[name]
        flag = "--address" if name == "exporter" else "--metrics-address"
        assert command[command.index(flag) + 1] == f"0.0.0.0:{number}"


@pytest.mark.parametrize("name", VERBS)
def test_a_container_runs_a_verb_with_options_that_it_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called, *arguments = SERVICES[name]["command"]
    command = verb(called)
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-(.*)\}", r"\1", value))
    with command.make_context(called, list(arguments)) as context:
        assert context.params
    variables = {parameter.envvar for parameter in command.params}
    assert set(SERVICES[name]["environment"]) <= variables


def test_the_containers_listen_on_the_ports_that_are_the_codes_defaults() -> None:
    up = defaults_of("up")
    expected = {
        ("service", "--address"): port(up["address"]),
        ("service", "--metrics-address"): port(up["metrics_address"]),
        ("exporter", "--address"): port(up["exporter_address"]),
        ("worker", "--metrics-address"): up["worker_metrics_port"],
    }
    for (name, flag), number in expected.items():
        command = SERVICES[name]["command"]
        assert port(command[command.index(flag) + 1]) == number
    assert port(defaults_of("exporter")["address"]) == port(up["exporter_address"])
    assert port(defaults_of("serve")["metrics_address"]) == port(up["metrics_address"])


@pytest.mark.parametrize("name", ["service", "worker"])
def test_an_image_alone_starts_the_same_verb_and_exposes_its_ports(name: str) -> None:
    steps = dict(instructions(DEPLOY / "images" / f"{name}.Dockerfile"))
    command = yaml.safe_load(steps["CMD"])
    assert command == SERVICES[name]["command"][: len(command)]
    ports = {str(port(word)) for word in command if re.fullmatch(r"[\d.]+:\d+", word)}
    assert ports <= set(steps["EXPOSE"].split())


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_built_here_confined_and_reachable_from_this_machine_only(name: str) -> None:
    container = SERVICES[name]
    assert (DEPLOY / container["build"]["context"] / container["build"]["dockerfile"]).resolve() in IMAGES
    assert re.fullmatch(r"[\w-]+:\d+\.\d+\.\d+", container["image"])
    assert container["read_only"]
    assert container["cap_drop"] == ["ALL"]
    assert all(published.startswith("127.0.0.1:") for published in container.get("ports", ()))
    assert set(container["networks"]) <= set(COMPOSE["networks"])
    for volume in container.get("volumes", ()):
        assert volume.partition(":")[0] in COMPOSE["volumes"]
    assert set(container.get("depends_on", ())) <= set(SERVICES)


def test_the_images_carry_the_version_of_the_code() -> None:
    version = re.search(r'"([\d.]+)"', (ROOT / "client" / "gradsight" / "_version.py").read_text())
    assert version
    assert {container["image"].partition(":")[2] for container in SERVICES.values()} == {version[1]}


def test_the_store_is_on_a_network_of_its_own_and_publishes_no_port() -> None:
    assert SERVICES["store"]["networks"] == ["store"]
    assert COMPOSE["networks"]["store"] == {"internal": True}
    assert "ports" not in SERVICES["store"]
    assert not [
        name for name in SERVICES if "store" in SERVICES[name]["networks"] and name not in ("store", *VERBS)
    ]


def test_service_and_worker_share_the_artifacts_and_the_workers_spool_lies_beside_them() -> None:
    mounts = {name: SERVICES[name]["volumes"] for name in ("service", "worker")}
    assert mounts["service"] == mounts["worker"] == ["files:/var/lib/gradsight"]
    for name in mounts:
        assert SERVICES[name]["environment"]["GRADSIGHT_ARTIFACTS"] == "/var/lib/gradsight/artifacts"
    command = SERVICES["worker"]["command"]
    assert command[command.index("--spool") + 1] == "/var/lib/gradsight/spool"


def test_a_worker_has_time_to_save_its_job_when_it_is_stopped() -> None:
    assert int(SERVICES["worker"]["stop_grace_period"].rstrip("s")) > 60
