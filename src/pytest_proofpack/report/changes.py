"""What changed: the facts that a page tells of an edit, of one made in memory or of a checkpoint from elsewhere.

To tell another fact, add a function to :data:`FACTS`: it gets the certificate and yields lines, none where the
certificate does not hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import data_size
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.readings import readings_words
from pytest_proofpack.plan.edit_kinds import FAULTS, NOOP, words_of
from pytest_proofpack.plan.quantization import Quantization
from pytest_proofpack.plan.tool_edits import TOOL
from pytest_proofpack.report import formatting
from pytest_proofpack.report.rendering import is_short
from pytest_proofpack.report.sentence import edit_phrase, files_say, scope_phrase, tool_phrase

_ORIGINS = {
    "given": "as its user says",
    "inferred": "as the name suggests",
    "default": "nobody says how it was made",
    "digest": "its files are the baseline's",
}
_NAMES_SHOWN = 200


@dataclass(frozen=True)
class Line:
    """One fact: a label and its text; ``code`` is a digest or a name of code, shown as one."""

    label: str
    text: str
    code: str = ""


@dataclass(frozen=True)
class Names:
    """A list of parameters that is shown on demand."""

    title: str
    names: str


def changed_lines(certificate: JsonObject) -> list[Line]:
    """Return every fact that the certificate holds about what changed."""
    return [line for facts in FACTS for line in facts(certificate)]


def changed_names(certificate: JsonObject) -> list[Names]:
    """Return lists of the parameters that changed, came or went."""
    structure = certificate["structure"]
    lists = {"changed": structure["parameters_changed"]}
    lists |= {kind: structure["changes"][kind] for kind in ("added", "removed", "reshaped") if "changes" in structure}
    return [
        Names(f"{formatting.counted(len(names), 'parameter')} {kind}", formatting.listing(names, _NAMES_SHOWN))
        for kind, names in lists.items()
        if names
    ]


def _edit(certificate: JsonObject) -> Iterator[Line]:
    edit = certificate["provenance"]["edit"]
    if edit.get("source") == TOOL:
        yield Line("Edit", f"{tool_phrase(edit)}, for this certificate, and loaded from its own files")
        yield Line("Called", f"{edit['type']} (as its files say)")
        yield Line("Files say", files_say(certificate))
    elif "source" in edit:
        told = _ORIGINS.get(certificate.get("label", {}).get("origin"), "")
        yield Line("Checkpoint", f"{edit.get('subject')}, edited elsewhere and loaded from its own files")
        yield Line("Called", f"{edit['type']}{f' ({told})' if told else ''}")
        yield Line("Files say", files_say(certificate))
    elif edit["type"] == NOOP:
        yield Line("Edit", "nothing: the model is compared with itself")
    elif edit["type"] in FAULTS:
        yield Line("Damage", edit_phrase(edit))
    else:
        where = scope_phrase(edit.get("scope"))
        yield Line("Edit", f"{edit_phrase(edit)}{f', {where}' if where else ''}")
        yield Line("Method", f"{edit['type']}: {words_of(edit['type']) or 'an edit of an extension'}")


def _groups(certificate: JsonObject) -> Iterator[Line]:
    """Yield what comparing all parameters of a loaded checkpoint with the baseline's told, group by group."""
    for name, group in certificate["structure"].get("summary", {}).get("families", {}).items():
        label = formatting.sentence_case(formatting.group_words(name))
        if not group["changed"]:
            yield Line(label, f"{formatting.counted(group['parameters'], 'parameter')}, none changed")
            continue
        parts = [f"{group['changed']:,} of {formatting.counted(group['parameters'], 'parameter')} changed"]
        if group["relative_change"] is not None:
            parts.append(f"by {formatting.percent(group['relative_change'])} % of their norm")
        if group["bits"] is not None:
            parts.append(f"about {formatting.counted(group['bits'], 'bit')}, {group['distinct']} values a group of 32")
        if group["sparsity"] is not None and group["sparsity"] != group["sparsity_base"]:
            zeros = formatting.percent(group["sparsity"]), formatting.percent(group["sparsity_base"] or 0.0)
            parts.append(f"{zeros[0]} % zeros (before: {zeros[1]} %)")
        yield Line(label, ", ".join(parts))


def _in_memory(certificate: JsonObject) -> Iterator[Line]:
    structure = certificate["structure"]
    if "summary" not in structure:
        changed, total = len(structure["parameters_changed"]), certificate["invariants"]["baseline"]["tensors"]
        yield Line("Parameters", f"{changed:,} of {formatting.counted(total, 'tensor')} changed, in memory")


def _sizes(certificate: JsonObject) -> Iterator[Line]:
    """Yield the size of the weights on disk, before and after."""
    sizes = certificate["meta"].get("inputs", {}).get("weight_bytes", {})
    before, after = sizes.get("baseline"), sizes.get("subject")
    if before is not None and "adapter" in certificate["structure"]["edit_details"]:
        yield Line("Weights on disk", f"{data_size(before)} of the baseline, {data_size(after or 0)} of the adapter")
    elif before is not None and after is not None:
        share = f" ({formatting.percent(after / before)} %)" if before else ""
        yield Line("Weights on disk", f"{data_size(before)} before, {data_size(after)} after{share}")
    elif before is not None:
        yield Line("Weights on disk", f"{data_size(before)}; the edited model was never written")


def _readings(certificate: JsonObject) -> Iterator[Line]:
    """Yield how a quantized checkpoint says that it is quantized, and which reading of it was judged."""
    block = certificate.get("readings", {})
    if block.get("quantization") is not None:
        yield Line("Quantized", quantization_said(block["quantization"]))
        yield Line("Judged", readings_words(block))


def quantization_said(recorded: Mapping[str, Any]) -> str:
    """Return what a certificate records of a quantization in words."""
    try:
        return Quantization.from_json(recorded).words
    except (FormatError, TypeError):  # verification says what is wrong with it
        return formatting.inline(recorded)


def _digests(certificate: JsonObject) -> Iterator[Line]:
    digests = certificate["provenance"]["model_digest"]
    if "source" in certificate["provenance"]["edit"]:
        yield Line("Baseline's files", "", digests["baseline"])
        yield Line("Checkpoint's files", "", digests["subject"])


def _reported(certificate: JsonObject) -> Iterator[Line]:
    """Yield what the edit, or loading the checkpoint, reported."""
    for key, value in certificate["structure"]["edit_details"].items():
        label = formatting.sentence_case(key.replace("_", " "))
        if isinstance(value, Mapping) and not is_short(value):
            for part, said in value.items():
                yield Line(f"{label}: {part.replace('_', ' ')}", formatting.inline(said))
        else:
            yield Line(label, formatting.thousands(value) if type(value) is int else formatting.inline(value))


def _generation(certificate: JsonObject) -> Iterator[Line]:
    differences = certificate.get("generation", {}).get("differences")
    if differences:
        yield Line("Steers generation differently", formatting.inline(differences))


FACTS: tuple[Callable[[JsonObject], Iterator[Line]], ...] = (
    _edit,
    _in_memory,
    _readings,
    _groups,
    _sizes,
    _digests,
    _reported,
    _generation,
)
"""What is told, in this order."""
