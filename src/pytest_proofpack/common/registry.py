"""Registries: named records, the package's own and those that extensions add.

A thing that can be chosen by name (an edit, a guard, a text source) is one record, in the module of the thing.
A registry finds the package's own records by the names of their modules, when it is first asked, so that whoever
defines the kind of record need not import those who make them, and nothing is imported that nobody asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Generic, Protocol, TypeVar

from pytest_proofpack.common.words import likeliest
from pytest_proofpack.errors import ConfigurationError


class Named(Protocol):
    """What can be registered."""

    @property
    def name(self) -> str:
        """The name by which it is chosen; unique in its registry."""


T = TypeVar("T", bound=Named)


class Registry(Mapping[str, T], Generic[T]):
    """Records by name, in the order of registration: the package's own first.

    Attributes:
        kind: what a record is, for messages: ``edit``, ``guard``.
    """

    def __init__(self, kind: str, builtin: str) -> None:
        """Make a registry.

        Args:
            kind: what a record is.
            builtin: ``module:attribute`` of the sequence of the package's own records.
        """
        self.kind = kind
        self._builtin = builtin
        self._own: dict[str, T] | None = None
        self._added: dict[str, T] = {}

    def register(self, record: T) -> None:
        """Add a record of an extension.

        Raises:
            ConfigurationError: its name is taken.
        """
        if record.name in self:
            raise ConfigurationError(f"{self.kind} {record.name!r} is registered already: give yours another name.")
        self._added[record.name] = record

    def unregister(self, name: str) -> None:
        """Take a record of an extension out again; the package's own stay."""
        self._added.pop(name, None)

    @property
    def added(self) -> Mapping[str, T]:
        """The records of extensions."""
        return dict(self._added)

    def require(self, name: str, source: str = "") -> T:
        """Return a record.

        Args:
            name: the record's name.
            source: what asks for it, for the message: a file and key, an option.

        Raises:
            ConfigurationError: there is none of that name; names the ones there are, the likeliest first.
        """
        if name in self:
            return self[name]
        likely = likeliest(str(name), self)
        guess = f" Did you mean {likely!r}?" if likely else ""
        raise ConfigurationError(
            f"{source + ': ' if source else ''}the {self.kind} {name!r} is unknown; expected one of {', '.join(self)}."
            f"{guess}"
        )

    def __getitem__(self, name: str) -> T:
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def _records(self) -> dict[str, T]:
        if self._own is None:
            module, _, attribute = self._builtin.partition(":")
            self._own = {record.name: record for record in getattr(import_module(module), attribute)}
        return {**self._own, **self._added}
