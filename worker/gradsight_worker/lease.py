"""An attempt's right to its job: renewed five times per lease, given up by itself before the store takes it."""

import logging
import os
import signal
import time
from collections.abc import Callable

from gradsight_store import attempts
from gradsight_store.errors import JobNotFound, StoreFull, StoreUnavailable
from gradsight_store.operations import Answer, JobRef
from gradsight_store.store import Store
from gradsight_worker.outbox import Fenced

RENEWALS_PER_LEASE = 5
SELF_FENCE_AT = 0.8
FENCED_ITSELF = 75
"""Exit status of a process whose lease ran out unrenewed: nobody told the store how the attempt ended."""
_HURRY_S = 0.1

_log = logging.getLogger(__name__)


class Lease:
    """The lease of one term, from its claim on.

    Time is this process's monotonic clock; a lease counts from when its request was *sent*, so that it never ends
    later here than on the store's clock. An alarm ends the process at 0.8 of the lease, even in the middle of a
    call that blocks, or at once when a stopped process goes on.

    Args:
        store: Where it is renewed.
        ref: The job.
        term: The term.
        lease_s: Its length.
        claimed_at: Monotonic time when the claim was sent.
        last_act: Called before the process ends itself.
    """

    def __init__(
        self,
        store: Store,
        ref: JobRef,
        term: int,
        *,
        lease_s: float,
        claimed_at: float,
        last_act: Callable[[], None],
    ) -> None:
        self._store, self._ref, self._term = store, ref, term
        self._lease_s = lease_s
        self._last_act = last_act
        self._troubled = False  # said so already
        self.renew_at = 0.0
        """Monotonic time of the next renewal."""
        signal.signal(signal.SIGALRM, self._fence_itself)
        self._held_since(claimed_at)

    def renew_if_due(self, now: float) -> int:
        """Renew the lease when it is time. Returns what the store asks for, a `DesiredState`.

        Raises:
            Fenced: The term is over.
        """
        if now < self.renew_at:
            return 0
        try:
            renewal = self._store.run(attempts.renew_lease(self._ref, self._term))
        except (StoreUnavailable, StoreFull) as error:
            if not self._troubled:
                _log.warning("lease not renewed, tried again until it is: %s", error)
            self._troubled = True
            self.renew_at = now + _HURRY_S
            return 0
        except JobNotFound as error:
            raise Fenced(str(error)) from error
        if renewal.answer is Answer.FENCED:
            raise Fenced(f"term {self._term} is over")
        self._held_since(now)
        self._troubled = False
        return renewal.desired_state

    def end(self) -> None:
        """Call the alarm off: the attempt is over."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _held_since(self, moment: float) -> None:
        self.renew_at = moment + self._lease_s / RENEWALS_PER_LEASE
        remaining = moment + SELF_FENCE_AT * self._lease_s - time.monotonic()
        if remaining <= 0:
            self._fence_itself()
        signal.setitimer(signal.ITIMER_REAL, remaining)

    def _fence_itself(self, *_: object) -> None:
        self._last_act()
        _log.error("lease not renewed for %.1f s: stopped", SELF_FENCE_AT * self._lease_s)
        os._exit(FENCED_ITSELF)
