"""Results for the hub: the ``model-index`` of a model card, and an entry of ``.eval_results``.

The YAML is written here, in the schemas of huggingface_hub's ``EvalResult`` and ``EvalResultEntry``, because whoever
only verifies has no huggingface_hub; a test reads it with huggingface_hub's own readers. Every text is quoted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

from pytest_proofpack.certificate.explain import warning_words
from pytest_proofpack.certificate.formats import format_of
from pytest_proofpack.certificate.older import format_words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import number, printable, ratio
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.report.markdown import code
from pytest_proofpack.results.exports.export import Choice, Export, chosen_rows, only_model, shipped
from pytest_proofpack.results.opened import Results

_SOURCE = "pytest-proofpack"


def _one_edit(results: Results, choice: Choice) -> tuple[JsonObject, JsonObject]:
    """Return the row and the certificate of the only edit that is meant.

    Raises:
        ConfigurationError: there are several, or none; it has no perplexity; or nothing of it was verified.
    """
    if not results.verified:
        raise ConfigurationError(f"{results.name}: is not verified, and what is not does not go into a model card.")
    rows = chosen_rows(results, choice)
    only_model(rows)
    edits = shipped(rows)
    if not edits:
        raise ConfigurationError(f"{results.name}: holds no clean edit and no model edited elsewhere: nothing to ship.")
    if len(edits) > 1:
        names = ", ".join(printable(row["scenario"]) for row, _ in edits)
        raise ConfigurationError(f"--edit: a model card is about one edit; say which: {names}")
    row, certificate = edits[0]
    if "ratio" not in row:
        raise ConfigurationError(f"{printable(row['scenario'])}: a loss is not finite, so there is no perplexity.")
    return row, certificate


def _model_card(results: Results, choice: Choice) -> str:
    row, certificate = _one_edit(results, choice)
    metric, dataset = certificate["primary_metric"], certificate["dataset"]
    low, high = row["interval"]
    interval = f"{ratio(low)} to {ratio(high)}"
    metrics = [
        {"type": "perplexity", "value": metric["final"], "name": "Perplexity"},
        {
            "type": "perplexity_ratio",
            "value": row["ratio"],
            "name": f"Perplexity over the unedited model's, 95 % interval {interval}",
        },
        {
            "type": "kl_divergence",
            "value": certificate.get("distribution", {}).get("kl_mean"),
            "name": "Mean KL divergence from the unedited model, nats per token",
        },
    ]
    result: JsonObject = {
        "task": {"type": "text-generation", "name": "Language modeling"},
        "dataset": {**_dataset(dataset), "args": {"seq_len": dataset["seq_len"], "windows": _windows(certificate)}},
        "metrics": [entry for entry in metrics if entry["value"] is not None],
        **({"source": {"url": choice.url, "name": _SOURCE}} if choice.url else {}),
    }
    name, base = _name(row, certificate, choice), choice.base_model or row["model"]
    front = {"base_model": base, "model-index": [{"name": name, "results": [result]}]}
    tier, digest = certificate["policy_provenance"]["tier"], certificate["certificate_digest"]
    older = format_words(format_of(certificate))
    lacking = f" It was judged by {older}." if older else ""
    warned = ", ".join(map(warning_words, row["warnings"])) if row["passed"] else ""
    warning = f", with a warning: {warned}" if warned else ""
    body = (
        f"## Evaluation\n\n{code(name)} was certified against {code(base)} with pytest-proofpack: its "
        f"perplexity is {number(metric['final'])}, {ratio(row['ratio'])} times the unedited model's (95 % interval "
        f"{interval}), and it {'passed every gate' if row['passed'] else '**failed**'} of tier {code(tier)}{warning}. "
        f"Certificate {code(digest[:16])}.{lacking}\n"
    )
    return "---\n" + "\n".join(_yaml(front)) + "\n---\n\n" + body


def _eval_results(results: Results, choice: Choice) -> str:
    row, certificate = _one_edit(results, choice)
    source = certificate["dataset"].get("source")
    if source is None:
        provider = printable(certificate["dataset"]["provider"])
        raise ConfigurationError(f"the text is of {provider}, and .eval_results is about data sets of the hub.")
    entry = {
        "dataset": {
            "id": source["dataset"],
            "task_id": source.get("config") or certificate["dataset"]["split"],
            "revision": source["revision"],
        },
        "value": certificate["primary_metric"]["final"],
        **({"date": results.time} if results.time else {}),
        **({"source": {"url": choice.url, "name": _SOURCE}} if choice.url else {}),
        "notes": f"perplexity, {ratio(row['ratio'])} times that of {row['model']}; "
        f"certificate {certificate['certificate_digest'][:16]}{''.join(f'; {line}' for line in results.caution)}",
    }
    return "\n".join(_yaml([entry])) + "\n"


def _name(row: JsonObject, certificate: JsonObject, choice: Choice) -> str:
    subject = certificate["provenance"]["edit"].get("subject")
    named = subject if isinstance(subject, str) else None  # an edit of an extension may call anything so
    return choice.name or named or f"{row['model']} {row['scenario']}"


def _dataset(dataset: JsonObject) -> JsonObject:
    source = dataset.get("source") or {}
    named = source.get("dataset") or dataset["provider"]
    facts = {"name": named, "type": named, "config": source.get("config"), "split": dataset["split"]}
    revision = source.get("revision") or f"sha256:{dataset['hash']['text']}"
    return {key: value for key, value in {**facts, "revision": revision}.items() if value is not None}


def _windows(certificate: JsonObject) -> int:
    return len(certificate["evaluation_windows"]["final"]["window_ids"])


def _yaml(value: object, indent: int = 0) -> Iterator[str]:
    """Yield the lines of a mapping or a list whose keys are ours: block style, every text in double quotes."""
    margin = " " * indent
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, Mapping | list):
                yield f"{margin}{key}:"
                yield from _yaml(item, indent + 2)
            else:
                yield f"{margin}{key}: {_scalar(item)}"
    elif isinstance(value, list):
        for item in value:
            first, *rest = _yaml(item, indent + 2)
            yield f"{margin}- {first.lstrip()}"
            yield from rest


def _scalar(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigurationError("a number is not finite, and there is none in a model card")
        mantissa, _, exponent = repr(value).partition("e")
        # Without a point YAML 1.1 takes 1e-05 for a text.
        return mantissa if not exponent else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
    return str(value) if isinstance(value, int) else json.dumps(printable(str(value)), ensure_ascii=False)


MODEL_CARD = Export("model-card", "a README for the hub: model-index in its head, a paragraph below", _model_card)
EVAL_RESULTS = Export(
    "eval-results", "an entry of .eval_results, for a text that is a data set of the hub", _eval_results
)
