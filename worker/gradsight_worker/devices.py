"""Which device a worker trains on, found out without touching it: the process that forks must not open CUDA."""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from gradsight.v1 import spec_pb2

_CUDA = re.compile(r"cuda:(\d{1,4})")
_QUERY = ["nvidia-smi", "--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits"]
_ASK_TORCH = (
    "import json, torch; n = torch.cuda.device_count(); "
    "print(json.dumps([['', torch.cuda.get_device_name(i)] for i in range(n)]))"
)


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device of a worker."""

    name: str
    """As the operator named it: `cpu` or `cuda:3`."""
    model: str
    """What its maker calls it. Empty when unknown."""
    device_class: spec_pb2.DeviceClass.ValueType
    visible: str | None
    """What CUDA_VISIBLE_DEVICES has to say so that the trainer sees this device only, as `cuda:0`."""

    @property
    def trainer_name(self) -> str:
        """What the trainer calls it."""
        return "cpu" if self.name == "cpu" else "cuda:0"

    def make_visible(self, environ: MutableMapping[str, str]) -> None:
        """Hide every other device from the processes that inherit this environment."""
        environ["CUDA_VISIBLE_DEVICES"] = self.visible or ""


def find_device(name: str) -> Device:
    """The device by the operator's name for it.

    Raises:
        ValueError: The name is malformed, or this machine or this torch has no such device.
    """
    if name == "cpu":
        return Device(name=name, model=_processor(), device_class=spec_pb2.DEVICE_CLASS_CPU, visible=None)
    match = _CUDA.fullmatch(name)
    if match is None:
        raise ValueError(f"--device: got {name!r}, allowed: 'cpu' or 'cuda:N' with N from 0")
    _require_cuda_build(name)
    found, index = _graphics_processors(), int(match[1])
    if index >= len(found):
        have = f"cuda:0 to cuda:{len(found) - 1}" if found else "none"
        raise ValueError(
            f"--device {name} is not available: this machine has {have}; --device cpu always works"
        )
    visible, model = found[index]
    return Device(name=name, model=model, device_class=spec_pb2.DEVICE_CLASS_CUDA, visible=visible)


def _require_cuda_build(name: str) -> None:
    import torch.version  # only for a GPU: a CPU worker starts without asking

    if torch.version.cuda is None:
        raise ValueError(
            f"--device {name} is not available: the installed torch {torch.__version__} is built without CUDA; "
            "install a CUDA build, or use --device cpu"
        )


def _graphics_processors() -> list[tuple[str, str]]:
    """(entry for CUDA_VISIBLE_DEVICES, model) of each GPU that this process may use, in CUDA's order."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        answer = subprocess.run(_QUERY, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return _ask_torch(allowed)
    installed = [
        tuple(part.strip() for part in line.split(",")) for line in answer.splitlines() if line.strip()
    ]
    if allowed is None:
        return [(uuid, model) for uuid, model, _ in installed]
    chosen = []
    for entry in (part.strip() for part in allowed.split(",") if part.strip()):
        matching = [
            (uuid, model)
            for number, (uuid, model, _) in enumerate(installed)
            if uuid.startswith(entry) or (entry.isdecimal() and int(entry) == number)
        ]
        if len(matching) != 1:
            break  # CUDA, too, ignores everything from the first entry that names no device
        chosen += matching
    return chosen


def _ask_torch(allowed: str | None) -> list[tuple[str, str]]:
    """Ask a process of its own, which may open CUDA: for machines without the NVIDIA tool."""
    try:
        command = [sys.executable, "-c", _ASK_TORCH]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    entries = allowed.split(",") if allowed else None
    models = [model for _, model in json.loads(answer)]
    return [(entries[index].strip() if entries else str(index), model) for index, model in enumerate(models)]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
