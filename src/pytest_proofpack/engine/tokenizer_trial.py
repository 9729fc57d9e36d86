"""A stranger's ``tokenizer.json``, tried where it can do no harm before it is used here.

It is a small program: replacements that may multiply a text, expressions that may backtrack without end. The library
that runs it takes the memory it is told to, and aborts the process where that ends. So all that is done with it to tell
it from another, :func:`pytest_proofpack.models.chosen_tokenizer.choose_tokenizer` and
:func:`pytest_proofpack.text.windows.tokenizer_fingerprint`, is done once in a process of its own.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pytest_proofpack.common.files import sha256_file
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models import chosen_tokenizer
from pytest_proofpack.models.bounded_process import MEMORY, bounded_answer
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.tokenizer import TOKENIZER_JSON
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.text import windows

PATIENCE = 60.0
"""Seconds. A vocabulary of 150,000 tokens takes one, and the machine may be busy."""
_LONGEST_REASON = 200
_TRY = """
sys.path.append(given["packages"])
from tokenizers import Tokenizer

def run():
    try:
        tokenizer = Tokenizer.from_file(given["file"])
    except Exception:
        return None  # who reads it says so
    tokenizer.no_truncation()
    tokenizer.no_padding()
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    added = [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items())]
    special = "".join(f"a {token} b{token}\\n" for token in added[:given["special"]])
    for most in given["samples"]:
        own = [tokenizer.decode([token], skip_special_tokens=False) for token in range(0, size, -(-size // most) or 1)]
        for split in (False, True):
            tokenizer.encode_special_tokens = split
            tokenizer.encode_batch([*given["texts"], special, "".join(own), *own], add_special_tokens=False)
    return None

try:
    problem = run()
except BaseException as error:  # a panic of Rust is no Exception
    problem = str(error)[:1000] or type(error).__name__
json.dump({"problem": problem}, sys.stdout)
"""


def require_tame_tokenizer(files: CheckpointFiles) -> None:
    """Make sure that a model's ``tokenizer.json`` splits text in bounded time and memory, if it has one.

    Once in a process for files that are the same, and never for that of the embedded model.

    Raises:
        ConfigurationError: it takes longer than :data:`PATIENCE`, more memory than there is for it, or fails.
    """
    if TOKENIZER_JSON not in files.tokenizer_files:
        return
    file = _File(files.path / TOKENIZER_JSON, _digest(files.path / TOKENIZER_JSON))
    problem = None if file.digest == _embedded_digest() else _problem(file)
    if problem is not None:
        raise ConfigurationError(
            f"{file.path}: {problem}. Put the tokenizer that the model was trained with beside the weights."
        )


@dataclass(frozen=True)
class _File:
    """A file that is another one's equal if it holds the same."""

    path: Path = field(compare=False)
    digest: str


def _digest(file: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return sha256_file(file)
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read ({error.strerror}).") from error


@cache
def _embedded_digest() -> str:
    return _digest(suites_directory() / "tiny_model" / TOKENIZER_JSON)


@cache
def _problem(file: _File) -> str | None:
    """Return what is wrong with a file; None if nothing is."""
    import tokenizers

    given = {
        "packages": str(Path(tokenizers.__file__).parents[1]),
        "file": str(file.path),
        "texts": [windows.PROBE, *chosen_tokenizer.PROBE],
        "samples": [windows.PROBED_TOKENS, chosen_tokenizer.PROBED_TOKENS],
        "special": chosen_tokenizer.PROBED_SPECIAL,
    }
    try:
        reason: str | None = bounded_answer(_TRY, given, PATIENCE)["problem"]
    except subprocess.TimeoutExpired:
        return f"it takes more than {PATIENCE:.0f} seconds to split a page of text and its own tokens"
    except subprocess.CalledProcessError:
        return f"a process of {MEMORY >> 30} GiB died of splitting a page of text and its own tokens"
    return None if reason is None else f"it cannot split text ({printable(reason)[:_LONGEST_REASON]})"
