"""Where evaluation text can come from: what a text source is, and the registry of those that there are.

A source is one record in the module of the thing, ``text/<name>.py``; an extension registers its own::

    TEXT_SOURCES.register(TextSource(name="my_texts", load=my_documents, takes=("language",)))

Its name is then a ``provider`` in the ``[text]`` of a suite file. Keys that :class:`TextSpec` has no field for reach
``load`` as ``spec.options``, and stand in every certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pytest_proofpack.common.registry import Registry
from pytest_proofpack.common.strict_json import canonical_json
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.plan.records import TextSpec

DEFAULT_SOURCE = "wikitext2"
"""What a run without a suite is measured on."""
DATASET_KEYS = ("config", "revision", "split", "field", "path")
"""Keys that a source takes which reads a data set of the hub, besides ``dataset``."""
_FIELDS = frozenset(entry.name for entry in fields(TextSpec)) - {"provider", "options"}


@dataclass(frozen=True)
class TextSource:
    """One source of evaluation text.

    Attributes:
        name: the ``provider`` that a suite's ``[text]`` names.
        load: returns the documents of a text, in a fixed order: the same for the same spec, on every machine. Empty
            ones and exact duplicates are dropped later. Heavy packages are imported inside. It raises
            :class:`~pytest_proofpack.errors.ConfigurationError` for a text that cannot be read.
        needs: keys that ``[text]`` must have.
        takes: keys that it may have besides.
        defaults: what it need not say.
        explains: what a needed key stands for, in words that end "needs ...".
        suffixes: of the files, in lower case with their dot, that ``--proofpack-text`` reads by this source.
        is_dataset: whether it reads a data set of the hub, ``spec.dataset``, which is then pinned to a commit and
            fetched before the first item; ``spec.path`` is its directory.
    """

    name: str
    load: Callable[[TextSpec], Iterable[str]]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    explains: Mapping[str, str] = field(default_factory=dict)
    suffixes: tuple[str, ...] = ()
    is_dataset: bool = False

    def spec(self, given: Mapping[str, Any], source: str) -> TextSpec:
        """Return the text that these keys of ``[text]`` describe, without ``provider``.

        Args:
            given: the keys with their values.
            source: how messages call the file that they stand in.

        Raises:
            ConfigurationError: a key is missing, means nothing to this source, or has a value that is no JSON.
        """
        full = {**self.defaults, **given}
        missing = [key for key in self.needs if key not in full]
        surplus = sorted(full.keys() - {*self.needs, *self.takes})
        if missing:
            explained = self.explains.get(missing[0], f"a value for {missing[0]}")
            instead = f", and knows nothing of text.{surplus[0]}" if surplus else ""
            raise ConfigurationError(
                f"{source}: text.{missing[0]}: the provider {self.name} needs {explained}{instead}"
            )
        if surplus:
            taken = ", ".join((*self.needs, *self.takes)) or "no keys"
            raise ConfigurationError(
                f"{source}: text.{surplus[0]}: means nothing to the provider {self.name}, which takes {taken}"
            )
        known = {key: value for key, value in full.items() if key in _FIELDS}
        options = {key: value for key, value in full.items() if key not in _FIELDS}
        try:
            canonical_json(options)  # certificates record them
        except FormatError as error:
            raise ConfigurationError(f"{source}: text: {error}") from error
        if known.get("path") is not None:
            known["path"] = Path(known["path"])
        return TextSpec(self.name, options=options, **known)


TEXT_SOURCES: Registry[TextSource] = Registry("text source", "pytest_proofpack.text:SOURCES")
"""Text sources by the name that a suite calls them by."""


def text_of_file(text: str, option: str) -> TextSpec:
    """Return the text in a file that a user names; its suffix says how it is read.

    Raises:
        ConfigurationError: no source reads such files.
    """
    path = Path(text).expanduser()
    for source in TEXT_SOURCES.values():
        if path.suffix.lower() in source.suffixes:
            return source.spec({"path": path}, option)
    suffixes = [f"a {suffix}" for source in TEXT_SOURCES.values() for suffix in source.suffixes]
    raise ConfigurationError(f"{option}={text}: expected {' or '.join(suffixes)} file")


def default_text() -> TextSpec:
    """Return the text of a run that names none."""
    return TEXT_SOURCES[DEFAULT_SOURCE].spec({}, DEFAULT_SOURCE)
