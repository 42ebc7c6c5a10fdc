"""Optimizers on flat parameters, skipped on the device when a step is not finite.

`step(..., nonfinite)` leaves values *and* state bitwise as they were where `nonfinite` is 1, without asking the device.
The fused kernels of Adam, AdamW and SGD do so themselves, one call per group; Adafactor and Muon, whose arithmetic
knows nothing of it, go through the one wrapper in `guarded.py`. Read `interface.py` first, then `building.py`.
"""

from gradsight_worker.training.optimizers.building import build_optimizer
from gradsight_worker.training.optimizers.interface import Optimizer
from gradsight_worker.training.optimizers.shrinkage import shrinkage_per_rate

__all__ = ["Optimizer", "build_optimizer", "shrinkage_per_rate"]
