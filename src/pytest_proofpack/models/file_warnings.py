"""What a user should know about a model's files, though nothing is wrong with what was loaded of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_proofpack.common.words import first_of, printable
from pytest_proofpack.models.own_code import code_warnings
from pytest_proofpack.models.said_twice import twice_warnings
from pytest_proofpack.models.shard_index import index_warnings
from pytest_proofpack.models.weight_sets import warnings_beside

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles
    from pytest_proofpack.plan.records import ModelSpec

_SHOWN = 3
_LENGTH = 80


def file_warnings(spec: ModelSpec, files: CheckpointFiles) -> tuple[str, ...]:
    """Return the warnings about the files of a model by itself, baseline or subject."""
    checks: tuple[Callable[[CheckpointFiles], tuple[str, ...]], ...] = (
        *(index_warnings, warnings_beside, twice_warnings, _linked_folders),
    )
    return (*code_warnings(spec, files), *(warning for check in checks for warning in check(files)))


def class_warnings(files: CheckpointFiles, base: CheckpointFiles) -> tuple[str, ...]:
    """Return the warning that a subject is called another kind of model than its baseline; nothing if it is not.

    transformers was told to build a causal language model, whatever the files say; others go by them.
    """
    if files.format.single_file is not None or base.format.single_file is not None:
        return ()
    found = []
    theirs, ours = (_classes(own) for own in (files, base))
    if theirs != ours:
        found.append(f"architectures {theirs}, the baseline's {ours}")
    theirs, ours = (str(own.claims.get("is_encoder_decoder") is True).lower() for own in (files, base))
    if theirs != ours:
        found.append(f"is_encoder_decoder {theirs}, the baseline's {ours}")
    if not found:
        return ()
    return (
        f"its config.json says {'; '.join(found)}. It was loaded as a causal language model, as the baseline was; who "
        "goes by the file may load another one, or none.",
    )


def _classes(files: CheckpointFiles) -> str:
    named = files.claims.get("architectures")
    if not isinstance(named, list) or not named:
        return "none"
    return first_of(sorted(printable(str(own))[:_LENGTH] for own in named), _SHOWN)


def _linked_folders(files: CheckpointFiles) -> tuple[str, ...]:
    """Return the warning that folders at the top are links: what is in them is not in the digest."""
    links = [name for name in files.names if (files.path / name).is_symlink() and (files.path / name).is_dir()]
    if not links:
        return ()
    shown = first_of([printable(name)[:_LENGTH] for name in links], _SHOWN)
    return (
        f"holds links to folders ({shown}); what is in them is not part of the model's digest. Copy what belongs to "
        "the model into its directory.",
    )
