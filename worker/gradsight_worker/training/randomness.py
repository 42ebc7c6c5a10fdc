"""The generators that training draws from: dropout's, on the device and on the processor."""

from collections.abc import Mapping

import torch
from torch import Tensor


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed the processor's generator and, where training runs on another device, that device's."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of every generator that training draws from, uint8 on the host; does not wait for the device."""
    states = {"cpu": torch.default_generator.get_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set every generator as `random_state` found it."""
    torch.default_generator.set_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
