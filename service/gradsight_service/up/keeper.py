"""The process behind `gradsight up`: starts the household in order, keeps it alive, ends it in the opposite order."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from gradsight_service.up.child import Child
from gradsight_service.up.household import Addresses, Household
from gradsight_store.embedded import EmbeddedStore, start_embedded
from gradsight_store.errors import EmbeddedStoreFailed

_START_TIMEOUT_S = 60.0
_SERVICE_STOP_S = 12.0
_WORKER_STOP_S = 65.0


class StartFailed(Exception):
    """A process of the household did not come up."""


@dataclass(frozen=True, kw_only=True)
class UpSettings:
    """What `gradsight up` starts.

    `store` empty: an embedded one in `data`. `devices`: one worker each (`cpu`, `cuda:0`, …).
    A port of 0 takes a free one.
    """

    data: Path
    store: str = ""
    address: str = "127.0.0.1:7117"
    exporter_address: str = "127.0.0.1:9117"
    service_metrics_address: str = "127.0.0.1:9118"
    worker_metrics_port: int = 9119
    devices: tuple[str, ...] = ("cpu",)
    threads: int | None = None
    profile: str = "standard"
    insecure_listen: bool = False


class Keeper:
    """Holds the household's processes. Use `start`, then `keep`, then `stop`."""

    def __init__(self, settings: UpSettings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._household = Household(settings.data)
        self._store: EmbeddedStore | None = None
        self._service: Child | None = None
        self._others: list[Child] = []
        self._stopping = False

    def start(self) -> Addresses:
        """Start everything, wait until it answers and write the addresses; raises StartFailed or HouseholdTaken."""
        self._household.lock()
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        store_url = self._settings.store or self._start_store()
        # The workers load PyTorch meanwhile; only the service must answer before anyone is told of it.
        commands = self._commands(store_url, self._wanted(store_url))
        children = {name: self._start_child(name, command) for name, command in commands.items()}
        self._service = children["service"]
        self._others = [child for name, child in children.items() if name != "service"]
        service = self._wait_ready(self._service)
        addresses = Addresses(
            process_id=os.getpid(),
            service=service["address"],
            store=store_url,
            exporter=self._wait_ready(children["exporter"])["metrics"],
            service_metrics=service["metrics"],
            worker_metrics=tuple(
                self._wait_ready(children[f"worker-{number}"])["metrics"]
                for number in range(len(self._settings.devices))
            ),
        )
        # Whoever read the addresses finds everyone there after a restart, too, where the ports had been free ones.
        for name, command in self._commands(store_url, addresses).items():
            children[name].start_again_with(self._command(command))
        self._household.write(addresses)
        return addresses

    def keep(self) -> None:
        """Keep the children alive until a signal asks to stop."""
        while not self._stopping:
            if self._store is not None and not self._store.alive():
                self._say("the store ended; starting it again")
                self._store = start_embedded(self._household.store)
            for child in self._children():
                if child.revive():
                    self._say(f"{child.name} had ended ({child.last_words()}); started it again")
            time.sleep(0.1)

    def stop(self) -> None:
        """End everything: workers first, so that they can still give their jobs back; the store last."""
        for child in reversed(self._others):
            child.stop(_WORKER_STOP_S)
        if self._service is not None:
            self._service.stop(_SERVICE_STOP_S)
        if self._store is not None:
            self._store.stop()

    def _children(self) -> list[Child]:
        return ([self._service] if self._service else []) + self._others

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _start_store(self) -> str:
        try:
            # On a unix socket: nobody but this user can open it, and no port is taken.
            self._store = start_embedded(self._household.store)
        except EmbeddedStoreFailed as error:
            raise StartFailed(str(error)) from None
        return self._store.url

    def _start_child(self, name: str, arguments: list[str]) -> Child:
        child = Child(
            name,
            self._command(arguments),
            log=self._household.logs / f"{name}.log",
            ready_file=self._household.run / f"{name}.json",
        )
        child.start()
        return child

    def _wait_ready(self, child: Child) -> dict[str, str]:
        """Wait for a child's addresses. Nothing is restarted meanwhile: a wrong setting stays wrong."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while (addresses := child.addresses()) is None:
            if not child.alive():
                raise StartFailed(f"{child.name} did not start: {child.last_words()}")
            if self._stopping:
                raise StartFailed("stopped before everything was up")
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"{child.name} did not answer within {_START_TIMEOUT_S:.0f} s; its log is {child.log}"
                )
            time.sleep(0.02)
        return addresses

    def _command(self, arguments: list[str]) -> list[str]:
        return [sys.executable, "-m", "gradsight.cli", *arguments]

    def _wanted(self, store_url: str) -> Addresses:
        """The addresses as the settings say them; a port of 0 is yet to be found."""
        settings = self._settings
        first = settings.worker_metrics_port
        return Addresses(
            process_id=os.getpid(),
            service=settings.address,
            store=store_url,
            exporter=settings.exporter_address,
            service_metrics=settings.service_metrics_address,
            worker_metrics=tuple(
                f"127.0.0.1:{first + number if first else 0}" for number in range(len(settings.devices))
            ),
        )

    def _commands(self, store_url: str, addresses: Addresses) -> dict[str, list[str]]:
        """Command of each child by name, in the order of starting."""
        return {
            "service": self._service_command(store_url, addresses),
            "exporter": ["exporter", "--store", store_url, "--address", addresses.exporter],
            **{
                f"worker-{number}": self._worker_command(store_url, number, metrics)
                for number, metrics in enumerate(addresses.worker_metrics)
            },
        }

    def _service_command(self, store_url: str, addresses: Addresses) -> list[str]:
        command = ["serve", *self._shared(store_url), "--address", addresses.service]
        command += ["--metrics-address", addresses.service_metrics]
        return [*command, "--insecure-listen"] if self._settings.insecure_listen else command

    def _worker_command(self, store_url: str, number: int, metrics_address: str) -> list[str]:
        settings = self._settings
        command = ["worker", *self._shared(store_url), "--device", settings.devices[number]]
        command += ["--spool", str(self._household.spool), "--metrics-address", metrics_address]
        return [*command, "--threads", str(settings.threads)] if settings.threads else command

    def _shared(self, store_url: str) -> list[str]:
        artifacts = str(self._household.artifacts)
        return ["--store", store_url, "--artifacts", artifacts, "--profile", self._settings.profile]
