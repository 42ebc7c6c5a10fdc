"""Which device a worker gets, on a machine whose GPUs are told by a tool of our own."""

from pathlib import Path

import pytest
import torch

from gradsight.v1 import spec_pb2
from gradsight_worker.devices import find_device

TOOL = """#!/bin/sh
echo "GPU-aaaa, Model A, 81559"
echo "GPU-bbbb, Model B, 81559"
"""


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_cpu_is_always_there_and_hides_every_gpu() -> None:
    device = find_device("cpu")
    assert (device.trainer_name, device.device_class) == ("cpu", spec_pb2.DEVICE_CLASS_CPU)
    environ = {"CUDA_VISIBLE_DEVICES": "0"}
    device.make_visible(environ)
    assert environ == {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_the_only_one_its_trainer_sees() -> None:
    device = find_device("cuda:1")
    assert (device.name, device.trainer_name, device.model) == ("cuda:1", "cuda:0", "Model B")
    environ: dict[str, str] = {}
    device.make_visible(environ)
    assert environ == {"CUDA_VISIBLE_DEVICES": "GPU-bbbb"}
    assert not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("visible", "model"), [("1", "Model B"), ("GPU-bbbb", "Model B"), ("GPU-a", "Model A")]
)
def test_the_environment_restricts_the_choice(
    monkeypatch: pytest.MonkeyPatch, visible: str, model: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_device("cuda:0").model == model
    with pytest.raises(ValueError, match="this machine has cuda:0 to cuda:0"):
        find_device("cuda:1")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("visible", ["", "-1", "7"])
def test_an_environment_that_hides_every_gpu_leaves_none(
    monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ValueError, match="this machine has none"):
        find_device("cuda:0")


def test_a_torch_without_cuda_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match="built without CUDA"):
        find_device("cuda:0")


@pytest.mark.parametrize("name", ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:0,1", "CPU"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="allowed: 'cpu' or 'cuda:N'"):
        find_device(name)
