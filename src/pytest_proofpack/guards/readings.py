"""Where a certificate's numbers come from: the model as it is run, or its weights alone. It gates nothing.

A quantized checkpoint has two readings. Losses, activations and distributions are those of the model as its tool runs
it, or, where no kernel is there for that, of its dequantized weights: then what the kernels and the quantization of
activations cost was not judged, and the gates that would have seen it are named. Structure, spectra and changes always
come from dequantized weights. Whoever claims a reading that a form of checkpoint does not have is found out here.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_proofpack.common import words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import Block, Case, Guard, Rules, Shared

AS_RUN, DEQUANTIZED = "as_run", "dequantized"
UNPACKED_HERE = frozenset({"gptq", "awq", "auto-round"})
"""Forms that are unpacked by this package, before transformers sees them."""
ALWAYS_DENSE = UNPACKED_HERE | {"fp8", "mxfp8", "mxfp4", "compressed-tensors-asymmetric", "gguf"}
"""Forms that become dense while they are loaded, whatever the machine."""
_MAY_BE_PLAIN = frozenset({"gguf"})
"""Forms among these that may hold plain floating-point numbers."""
ALWAYS_PACKED = frozenset({"compressed-tensors", "bitsandbytes", "torchao"})
"""Forms that are run as their tool packed them."""
SEEN_AS_RUN = (
    "primary_metric_acceptable",
    "primary_metric_tail_acceptable",
    "preview_final_drift_acceptable",
    "rmt_stable",
    "variance_stable",
    "moe_identity_ok",
    "distribution_acceptable",
    "answers_kept",
)
"""The gates that judge forward passes."""
_WORD = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$"}


def readings_evidence(
    losses: str = AS_RUN,
    weights: str = AS_RUN,
    *,
    form: str | None = None,
    package: Mapping[str, str] | None = None,
    quantization: JsonObject | None = None,
) -> JsonObject:
    """Return what a certificate records as evidence under ``readings``.

    Args:
        losses: where losses, activations and distributions come from: ``as_run`` or ``dequantized``.
        weights: where structure, spectra and changes come from, likewise.
        form: the form of the subject's directory; None of a model edited in memory.
        package: name and version of what loaded it, besides transformers.
        quantization: what its configuration says, in words; None if it is not quantized.
    """
    return {
        "losses": losses,
        "weights": weights,
        "form": form,
        "package": None if package is None else dict(package),
        "quantization": quantization,
    }


def derive_readings(block: Block, _: Rules, case: Case) -> JsonObject:
    """Return what was not judged as the model runs.

    Raises:
        FormatError: a reading that this form of checkpoint does not have, or one of a model that is not quantized.
    """
    losses, weights, form, quantization = (block[key] for key in ("losses", "weights", "form", "quantization"))
    if case.loaded != (form is not None) or not (case.loaded or block["package"] is None):
        raise FormatError("readings.form: belongs to a subject that was loaded, and to no other")
    if quantization is None:
        if (losses, weights) != (AS_RUN, AS_RUN) or form in (ALWAYS_DENSE | ALWAYS_PACKED) - _MAY_BE_PLAIN:
            raise FormatError("readings: only quantized weights are dequantized, and their form is recorded")
    elif weights != DEQUANTIZED or not case.loaded:
        raise FormatError("readings.weights: those of a quantized checkpoint are dequantized")
    elif (form in ALWAYS_DENSE and losses != DEQUANTIZED) or (form in ALWAYS_PACKED and losses != AS_RUN):
        raise FormatError(f"readings.losses: {form} is not read like this")
    return {
        "evaluated": quantization is not None,
        "weights_only": losses == DEQUANTIZED,
        "not_judged_as_run": list(SEEN_AS_RUN) if losses == DEQUANTIZED else [],
    }


def readings_words(block: Block) -> str:
    """Return in a line for people what was read how; empty of a model that is not quantized."""
    if block["quantization"] is None:
        return ""
    package = block["package"]
    by = "" if package is None else f" by {words.printable(package['name'])} {words.printable(package['version'])}"
    if block["losses"] == DEQUANTIZED:
        by = by or (" by pytest-proofpack" if block["form"] in UNPACKED_HERE else " by transformers")
        return f"weights only: losses too are those of the dequantized weights, unpacked{by}"
    return f"losses as run{by}; weights dequantized"


READINGS_GUARD = Guard(
    name="readings",
    judges="whether a quantized model was judged as it runs, or its weights alone",
    evidence=frozenset({"losses", "weights", "form", "package", "quantization"}),
    derive=derive_readings,
    gates=(),
    warnings={"weights_only": lambda block: block["weights_only"]},
    schema={
        "type": "object",
        "required": ["evaluated", "losses", "weights", "form", "package", "quantization"],
        "properties": {
            "losses": {"enum": [AS_RUN, DEQUANTIZED]},
            "weights": {"enum": [AS_RUN, DEQUANTIZED]},
            "form": {"anyOf": [{"type": "null"}, _WORD]},
            "package": {
                "type": ["object", "null"],
                "required": ["name", "version"],
                "properties": {"name": _WORD, "version": {"type": "string", "maxLength": 64}},
                "additionalProperties": False,
            },
            "quantization": {"type": ["object", "null"]},
        },
        "additionalProperties": True,
    },
    shared=Shared(
        edited=lambda block: {
            "how it was read": {key: block[key] for key in ("losses", "weights", "form", "package", "quantization")}
        }
    ),
)
