"""What steers generation beside the weights: special tokens, generation config, chat template of a loaded subject.

Perplexity sees none of it, but whoever serves the model does: it stops somewhere else, suppresses other tokens, wraps
prompts in other words. A difference is a warning that names file and key; whether it is meant, only its maker knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject, compact_json, sha256_of
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.facts import canonical, differing_keys
from pytest_proofpack.guards.guard import Block, Case, Guard, Rules

_LENGTH_SHOWN = 200
_MOST_FACTS = 2000


def recorded_fact(file: str, value: object) -> JsonObject:
    """Return a fact as it is recorded: where it stands, and its value in the canonical form; long ones as a digest."""
    form = canonical(value)
    if len(compact_json(form)) > _LENGTH_SHOWN:
        form = {"sha256": sha256_of(form)}
    return {"file": file, "value": form}


def generation_evidence(baseline: JsonObject | None, subject: JsonObject | None) -> JsonObject:
    """Return the evidence: facts of both by key; None for a subject that was edited in memory and has no files."""
    return {"baseline": baseline, "subject": subject}


def derive_generation(block: Mapping[str, Any]) -> JsonObject:
    """Return what follows from the facts: whether there were two sets of files to compare, and their differences.

    Raises:
        FormatError: the evidence is not what :func:`generation_evidence` holds.
    """
    ours, theirs = (_facts(block[side], side) for side in ("baseline", "subject"))
    if (ours is None) != (theirs is None):
        raise FormatError("generation: facts of one model alone")
    if ours is None or theirs is None:
        return {"evaluated": True, "compared": False, "differences": []}
    values = [{key: fact["value"] for key, fact in facts.items()} for facts in (ours, theirs)]
    differences: dict[tuple[str, str], JsonObject] = {}  # what config.json says, a generation config may be made of
    for key in differing_keys(*values):
        place = (theirs.get(key) or _silent(key, theirs) or ours[key])["file"], key.partition(".")[2]
        pair = {"baseline": values[0].get(key), "subject": values[1].get(key)}
        differences[place] = {"file": place[0], "key": place[1], **pair}
    return {"evaluated": True, "compared": True, "differences": [differences[place] for place in sorted(differences)]}


def _silent(key: str, facts: Mapping[str, Any]) -> Any:
    """Return a fact of the file in which a fact that is missing would stand; None if none tells.

    All of a generation config is in one file: its own, or ``config.json``, of which transformers makes one.
    """
    about = key.partition(".")[0]
    beside = (fact for other, fact in sorted(facts.items()) if other.startswith(f"{about}."))
    return next(beside, None) if about == "generation" else None


def _facts(side: object, name: str) -> Mapping[str, Any] | None:
    if side is None:
        return None
    if not isinstance(side, Mapping) or len(side) > _MOST_FACTS:
        raise FormatError(f"generation.{name}: expected facts by key")
    for key, fact in side.items():
        if not isinstance(fact, Mapping) or set(fact) != {"file", "value"} or not isinstance(fact["file"], str):
            raise FormatError(f"generation.{name}: {key!r:.80}: expected a file and a value")
    return side


def _derived(block: Block, _rules: Rules, case: Case) -> JsonObject:
    derived = derive_generation(block)
    if derived["compared"] != case.loaded:
        raise FormatError("generation: belongs to a subject that was loaded, and to no other")
    return derived


GENERATION_GUARD = Guard(
    name="generation",
    judges="what steers generation beside the weights",
    derive=_derived,
    gates=(),
    warnings={"generation": lambda block: bool(block["differences"])},
    schema={
        "type": "object",
        "required": ["evaluated", "compared", "baseline", "subject", "differences"],
        "properties": {
            **{key: {"type": "boolean"} for key in ("evaluated", "compared")},
            "baseline": {"type": ["object", "null"]},
            "subject": {"type": ["object", "null"]},
            "differences": {"type": "array"},
        },
        "additionalProperties": True,
    },
)
