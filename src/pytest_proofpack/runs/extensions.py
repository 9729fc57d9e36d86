"""What is added to the package from outside: which extensions a session has loaded, and what they may register.

An extension is Python code, so it can do whatever its user can. What is certified with it names it: name, version and
digest stand in every certificate and in the pack.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_proofpack.common.registry import Named, Registry
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.errors import ConfigurationError

if TYPE_CHECKING:
    from pytest_proofpack.guards.guard import Guard
    from pytest_proofpack.pack.attestations import Attestor
    from pytest_proofpack.pack.signers import Signer
    from pytest_proofpack.plan.edit_kinds import Edit, Fault
    from pytest_proofpack.plan.text_sources import TextSource
    from pytest_proofpack.plan.tool_edits import Tool

Record = TypeVar("Record", bound=Named)


@dataclass(frozen=True)
class Extension:
    """An extension that is loaded.

    Attributes:
        name: of its module, or of the file that a suite names.
        version: of the distribution that it comes with; None for a file of its own.
        sha256: digest of its source, see :func:`source_digest`.
    """

    name: str
    version: str | None
    sha256: str

    def to_json(self) -> JsonObject:
        """Return the JSON form that certificates, packs and workers get."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.name} {self.version or ''}".strip() + f" (sha256 {self.sha256[:12]})"


class Registries:
    """What ``pytest_proofpack_register`` is given: the registries of the package, to add records to.

    Everything that was added goes again with :meth:`close`: several sessions may follow each other in one process.
    """

    def __init__(self) -> None:
        self._opened: dict[str, frozenset[str]] = {}

    @cached_property
    def guards(self) -> Registry[Guard]:
        """Guards, each a :class:`pytest_proofpack.guards.guard.Guard`."""
        from pytest_proofpack.guards.registry import GUARDS

        return self._open("guards", GUARDS)

    @cached_property
    def edits(self) -> Registry[Edit]:
        """Edits, each a :class:`pytest_proofpack.plan.edit_kinds.Edit`."""
        from pytest_proofpack.plan.edit_kinds import EDITS

        return self._open("edits", EDITS)

    @cached_property
    def faults(self) -> Registry[Fault]:
        """Faults that are injected, each a :class:`pytest_proofpack.plan.edit_kinds.Fault`."""
        from pytest_proofpack.plan.edit_kinds import FAULTS

        return self._open("faults", FAULTS)

    @cached_property
    def tools(self) -> Registry[Tool]:
        """Quantization tools that scenarios call, each a :class:`pytest_proofpack.plan.tool_edits.Tool`."""
        from pytest_proofpack.plan.tool_edits import TOOLS

        return self._open("tools", TOOLS)

    @cached_property
    def text_sources(self) -> Registry[TextSource]:
        """Sources of evaluation text, each a :class:`pytest_proofpack.plan.text_sources.TextSource`."""
        from pytest_proofpack.plan.text_sources import TEXT_SOURCES

        return self._open("text_sources", TEXT_SOURCES)

    @cached_property
    def checkpoint_formats(self) -> Registry[Any]:
        """Forms of weight files, each a :class:`pytest_proofpack.models.checkpoint_formats.CheckpointFormat`."""
        # By name, and only for who asks: a verifier never does, and its half knows nothing of weights.
        formats = import_module("pytest_proofpack.models.checkpoint_formats")
        return self._open("checkpoint_formats", formats.CHECKPOINT_FORMATS)

    @cached_property
    def signers(self) -> Registry[Signer]:
        """Ways to sign a pack, each a :class:`pytest_proofpack.pack.signers.Signer`."""
        from pytest_proofpack.pack.signers import SIGNERS

        return self._open("signers", SIGNERS)

    @cached_property
    def attestors(self) -> Registry[Attestor]:
        """Ways to attest a pack, each a :class:`pytest_proofpack.pack.attestations.Attestor`."""
        from pytest_proofpack.pack.attestations import ATTESTORS

        return self._open("attestors", ATTESTORS)

    def close(self) -> None:
        """Take out again whatever was added since the registries were asked for here."""
        for name, before in self._opened.items():
            registry: Registry[Any] = getattr(self, name)
            for added in registry.added.keys() - before:
                registry.unregister(added)

    def _open(self, name: str, registry: Registry[Record]) -> Registry[Record]:
        self._opened[name] = frozenset(registry.added)
        return registry


def extension_of_file(name: str, source: bytes) -> Extension:
    """Return the record of an extension that is one file."""
    return Extension(name, None, hashlib.sha256(source).hexdigest())


def extension_of_module(module: ModuleType) -> Extension:
    """Return the record of an extension that is a module, with all of the package that it belongs to.

    Raises:
        ConfigurationError: its source cannot be read.
    """
    top = _top(module)
    file = getattr(top, "__file__", None)
    if file is None:
        raise ConfigurationError(
            f"extension {module.__name__}: it has no source file, so nothing can say what it does."
        )
    path = Path(file)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    try:
        sources = {file.relative_to(path.parent).as_posix(): file.read_bytes() for file in files}
    except OSError as error:
        raise ConfigurationError(f"extension {module.__name__}: {error.filename}: {error.strerror or error}") from error
    distributions = packages_distributions().get(top.__name__, ())
    return Extension(module.__name__, version(distributions[0]) if distributions else None, source_digest(sources))


def source_digest(sources: Mapping[str, bytes]) -> str:
    """Return the digest of an extension's source: the hexadecimal SHA-256 of its file.

    Of several files it is that of the canonical JSON object of their digests by name, relative to the package.
    """
    digests = {name: hashlib.sha256(source).hexdigest() for name, source in sources.items()}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256(compact_json(digests).encode()).hexdigest()


def require_same_extensions(here: Iterable[Extension], expected: Iterable[Extension]) -> None:
    """Make sure that a worker has loaded what the controller has.

    Raises:
        ConfigurationError: it has not; names what differs.
    """
    mine, wanted = set(here), set(expected)
    if mine != wanted:
        found, missing = (", ".join(sorted(map(str, some))) or "none" for some in (mine - wanted, wanted - mine))
        raise ConfigurationError(
            f"extensions differ between the session and this worker: the session has {missing}, the worker {found}. "
            "Give every host the same files."
        )


def extensions_from_json(documents: Iterable[JsonObject]) -> tuple[Extension, ...]:
    """Rebuild extensions from their JSON forms."""
    return tuple(Extension(**document) for document in documents)


def _top(module: ModuleType) -> ModuleType:
    """Return the outermost package that a module is in, or the module itself if it is in none that has a file."""
    parts = module.__name__.split(".")
    parents = [sys.modules[name] for count in range(1, len(parts)) if (name := ".".join(parts[:count])) in sys.modules]
    return next((parent for parent in parents if getattr(parent, "__file__", None) is not None), module)
