"""What a tokenizer's files say beside its vocabulary: what it puts around a text, how it normalizes and decodes.

The fingerprint holds what a tokenizer splits a fixed text into. That text need not hold what one rule of its files is
about, and what is put around a text, cut off its end, or made of tokens again is no part of it. Whoever serves the
model uses all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject, read_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.generation import recorded_fact
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.tokenizer import TOKENIZER_CONFIG, TOKENIZER_JSON, tokenizer_of_file

_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_SETTINGS = ("truncation", "padding")
_SWITCHES = ("add_bos_token", "add_eos_token", "split_special_tokens")
_LENGTH = "model_max_length"
_NO_LENGTH = 10**12
"""transformers writes 1e30 where a tokenizer has no limit."""


def section_facts(baseline: CheckpointFiles, subject: CheckpointFiles) -> tuple[JsonObject, JsonObject]:
    """Return the sections of the tokenizer files of two models, by key; none where only one has such a tokenizer.

    As the installed tokenizers writes them, so a default that only one file spells out is no difference.

    Raises:
        ConfigurationError: a ``tokenizer.json`` is malformed.
    """
    facts: tuple[JsonObject, JsonObject] = {}, {}
    if all(TOKENIZER_JSON in files.tokenizer_files for files in (baseline, subject)):
        for own, files in zip(facts, (baseline, subject), strict=True):
            for file, found in (
                (TOKENIZER_JSON, _sections(files.path)),
                (TOKENIZER_CONFIG, _settings(files.path / TOKENIZER_CONFIG)),
            ):
                own |= {f"tokenizer.{key}": recorded_fact(file, value) for key, value in found if value is not None}
    return facts


def _sections(path: Path) -> Iterator[tuple[str, Any]]:
    tokenizer = tokenizer_of_file(path)
    for name in _PARTS:
        part = getattr(tokenizer, name)
        yield name, None if part is None else json.loads(part.__getstate__())
    for name in _SETTINGS:
        yield name, getattr(tokenizer, name)


def _settings(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield what the settings file switches on; off is what it is where the file is silent, or not there."""
    try:
        settings = read_json(file) if file.is_file() else {}
    except FormatError:
        return  # what reads the special tokens in it says so
    for name in _SWITCHES:
        yield name, settings.get(name) or None
    length = settings.get(_LENGTH)
    yield _LENGTH, None if isinstance(length, int | float) and length >= _NO_LENGTH else length
