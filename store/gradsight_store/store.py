"""The sync driver."""

from typing import Self, TypeVar

from gradsight_store.operations import Operation
from gradsight_store.settings import StoreSettings

Result = TypeVar("Result")


class Store:
    """Runs operations over blocking sockets. Safe to share between threads, not across a fork."""

    @classmethod
    def open(cls, settings: StoreSettings) -> Self:
        """Make a store; connects on first use."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Address without credentials."""
        raise NotImplementedError

    def run(self, operation: Operation[Result]) -> Result:
        """Carry an operation out."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all connections."""
        raise NotImplementedError
