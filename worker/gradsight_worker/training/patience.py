"""Early stopping: how long a run may go on without improvement."""

from collections.abc import Mapping
from typing import Any


class Patience:
    """Counts evaluations without improvement. Its state travels in the training state, so a resumed run waits on."""

    def __init__(self, patience: int | None, min_improvement: float = 0.0) -> None:
        """Patience that runs out after `patience` evaluations without improvement, at least 1; None: never.

        Args:
            patience: Evaluations.
            min_improvement: By more than this must the figure fall below the best so far, at least 0.
        """
        self._patience = patience
        self._min_improvement = min_improvement
        self._best: float | None = None
        self._waited = 0

    def observe(self, figure: float) -> bool:
        """Take in the figure of one evaluation, smaller is better; True when patience has run out.

        One that is not finite is no improvement. Small improvements add up: only one that counts moves the mark.
        """
        mark = float("inf") if self._best is None else self._best - self._min_improvement
        if figure < mark:
            self._best = figure
            self._waited = 0
        else:
            self._waited += 1
        return self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self._patience is not None and self._waited >= self._patience

    @property
    def message(self) -> str:
        """Why training stops, for people."""
        return f"no improvement in {self._waited} evaluation{'s' if self._waited != 1 else ''}"

    def state(self) -> dict[str, Any]:
        """What a resume needs, as plain JSON values."""
        return {"best": self._best, "waited": self._waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state()` gave."""
        self._best = state["best"]
        self._waited = state["waited"]
