"""What repairs have changed about a run, and what further ones need to know; part of the training state."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradsight_worker.training.mitigation.snapshots import GoodSnapshots, Snapshot
from gradsight_worker.training.mitigation.spikes import SpikeGuard

MOST_TRIALS_OF_A_CAUSE = 3
MOST_TRIALS = 6
COOL_DOWN_PROBES = 5
"""After a trial, before the next one begins."""


@dataclass(kw_only=True)
class Trial:
    """A repair that has to prove itself."""

    mitigation_id: str
    finding_id: str
    kind: str
    """Of the finding."""
    action: str
    """Name of the `MitigationAction` in lower case."""
    start_step: int
    due_step: int
    """Step after which it is judged."""
    changed_step: int
    """Step after which the repair was last changed: a learning rate that is raised bit by bit."""
    grows: bool
    """True: the learning rate is still being raised."""
    learning_rate_factor: float
    """As it was before the trial, and as a revert restores it."""
    norm_limit: float
    """Likewise; infinite for none."""
    raised_by: float = 1.0
    """What the learning rate was last multiplied by while it was being raised."""


@dataclass(kw_only=True)
class Repairs:
    """Of one run under the policy `repair`."""

    spikes: SpikeGuard
    norm_limit: Tensor
    """Largest norm of the gradient, on the device; infinite for none."""
    learning_rate_factor: float = 1.0
    """What the schedule's learning rate is multiplied by."""
    good: GoodSnapshots = field(default_factory=GoodSnapshots)
    trial: Trial | None = None
    before: Snapshot | None = None
    """What the run was before the trial. Present exactly while there is one."""
    numbered: int = 0
    """Repairs so far, those without a trial included."""
    trials: dict[str, int] = field(default_factory=dict)
    """Trials so far by the kind of their finding."""
    failed: dict[str, int] = field(default_factory=dict)
    """Those that were reverted, likewise."""
    recipe: list[str] = field(default_factory=list)
    """Actions in force that changed the recipe: `reinitialize`, `standardize_inputs`."""
    answered_step: int = 0
    """Only what is seen after this step is answered: the end of the last trial."""
    unanswered: str = ""
    """Finding that a failed trial left as it was, of a run that had learnt nothing; empty for none."""
    quiet_until: int = 0
    """Step until which no trial begins."""

    @classmethod
    def none_yet(cls, device: torch.device, *, prior_loss: float, norm_limit: float | None) -> "Repairs":
        """The beginning of a run whose spec limits the gradient's norm, or does not (None)."""
        return cls(
            spikes=SpikeGuard(device, prior_loss=prior_loss),
            norm_limit=torch.full((), torch.inf if norm_limit is None else norm_limit, device=device),
        )

    def next_id(self) -> str:
        """An identity for one more repair."""
        self.numbered += 1
        return f"mitigation-{self.numbered}"

    def may_try(self, kind: str) -> bool:
        """Whether the budgets of this cause and of the job allow another trial."""
        return self.trials.get(kind, 0) < MOST_TRIALS_OF_A_CAUSE and sum(self.trials.values()) < MOST_TRIALS

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor but those of snapshots, by name; the run's own."""
        named = {f"spikes.{name}": tensor for name, tensor in self.spikes.state.items()}
        return {"norm_limit": self.norm_limit} | named

    def snapshots(self) -> dict[str, Tensor]:
        """Tensors of the snapshots that there are now, by name."""
        named = {f"good.{snapshot.step}": snapshot for snapshot in self.good.snapshots}
        if self.before is not None:
            named["before"] = self.before
        return {
            f"{place}/{name}": tensor
            for place, snapshot in named.items()
            for name, tensor in snapshot.tensors.items()
        }

    def facts(self) -> dict[str, Any]:
        """Everything else, as plain JSON values."""
        return {
            "learning_rate_factor": self.learning_rate_factor,
            "steps_judged": self.spikes.steps,
            "trial": None if self.trial is None else asdict(self.trial),
            "before_step": None if self.before is None else self.before.step,
            "good_steps": [snapshot.step for snapshot in self.good.snapshots],
            "numbered": self.numbered,
            "trials": self.trials,
            "failed": self.failed,
            "recipe": self.recipe,
            "answered_step": self.answered_step,
            "unanswered": self.unanswered,
            "quiet_until": self.quiet_until,
        }

    def restore(self, facts: Mapping[str, Any], snapshots: Mapping[str, Tensor]) -> None:
        """Become what `facts()` and `snapshots()` described; `tensors()` are restored by whoever saved them."""
        self.learning_rate_factor = facts["learning_rate_factor"]
        self.spikes.steps = facts["steps_judged"]
        self.trial = facts["trial"] and Trial(**facts["trial"])
        self.before = None
        if facts["before_step"] is not None:
            self.before = _snapshot(facts["before_step"], "before", snapshots)
        self.good.snapshots = [_snapshot(step, f"good.{step}", snapshots) for step in facts["good_steps"]]
        self.numbered = facts["numbered"]
        self.trials = dict(facts["trials"])
        self.failed = dict(facts["failed"])
        self.recipe = list(facts["recipe"])
        self.answered_step = facts["answered_step"]
        self.unanswered = facts["unanswered"]
        self.quiet_until = facts["quiet_until"]


def _snapshot(step: int, place: str, tensors: Mapping[str, Tensor]) -> Snapshot:
    prefix = f"{place}/"
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return Snapshot(step=step, tensors=named)
