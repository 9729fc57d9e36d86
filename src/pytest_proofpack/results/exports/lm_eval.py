"""Results as the files of EleutherAI's lm-evaluation-harness have them (read with its 0.4.13).

Its tables, loggers and viewers read ``results``, ``versions``, ``n-shot``, ``higher_is_better``, ``configs`` and
``config``. A task is an edit here; its metrics are named ``metric,filter``, and a metric's standard error
``metric_stderr,filter``: half of the interval over 1.96, which is what a symmetric one would be.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

from pytest_proofpack.common.strict_json import JsonObject, pretty_json
from pytest_proofpack.common.words import printable
from pytest_proofpack.results.exports.export import Choice, Export, chosen_rows, only_model
from pytest_proofpack.results.opened import Results

_FILTER = "none"
_VERSION = 1
_NORMAL = 1.959963984540054
_HIGHER: JsonObject = {"perplexity": False, "perplexity_ratio": False, "kl_mean": False, "passed": True}


def _write(results: Results, choice: Choice) -> str:
    pairs = chosen_rows(results, choice)
    model = only_model(pairs)
    tasks = {_task(row, pairs): (row, certificate) for row, certificate in pairs}
    first = pairs[0][1]
    return pretty_json(
        {
            "results": {task: _metrics(task, *pair) for task, pair in tasks.items()},
            "group_subtasks": {task: [] for task in tasks},
            "configs": {task: _config(task, certificate) for task, (_, certificate) in tasks.items()},
            "versions": dict.fromkeys(tasks, _VERSION),
            "n-shot": dict.fromkeys(tasks, 0),
            "higher_is_better": dict.fromkeys(tasks, _HIGHER),
            "n-samples": {task: _samples(certificate) for task, (_, certificate) in tasks.items()},
            "config": {
                "model": "pytest-proofpack",
                "model_args": f"pretrained={printable(model)}",
                "model_revision": first["meta"]["revision"] or "",
                "model_sha": first["provenance"]["model_digest"]["baseline"],
                "model_dtype": first["meta"]["dtype"],
                "device": first["meta"]["device"],
                "batch_size": None,
                "limit": None,
                "bootstrap_iters": first["primary_metric"]["reps"],
                "random_seed": first["meta"]["seeds"]["bootstrap"],
            },
            "git_hash": None,
            "date": _date(results),
            "model_source": "pytest-proofpack",
            "model_name": printable(model),
            "proofpack": {"verified": results.verified, "standing": results.standing, "verdict": results.verdict},
        }
    )


def _task(row: JsonObject, pairs: list[tuple[JsonObject, JsonObject]]) -> str:
    """Return the name of an edit's task; runs are told apart where there are several."""
    several = any(other["scenario"] == row["scenario"] and other["run"] != row["run"] for other, _ in pairs)
    return printable(f"{row['scenario']}_run_{row['run']}" if several else row["scenario"])


def _metrics(task: str, row: JsonObject, certificate: JsonObject) -> JsonObject:
    """Return the metrics; of an edit without a finite loss there are fewer."""
    metric, distribution = certificate["primary_metric"], certificate.get("distribution", {})
    found: JsonObject = {"perplexity": metric.get("final"), "perplexity_ratio": row.get("ratio")}
    errors: JsonObject = {}
    if "ratio" in row:
        low, high = metric["ci"]
        relative = (high - low) / (2 * _NORMAL)
        errors = {"perplexity_ratio": row["ratio"] * relative}
    found["kl_mean"] = distribution.get("kl_mean")
    found["passed"] = 1.0 if row["passed"] else 0.0
    return {
        "alias": task,
        "sample_len": metric["final_windows"] if "final_windows" in metric else len(_final(certificate)),
        **{f"{name},{_FILTER}": value for name, value in found.items() if value is not None},
        **{
            f"{name}_stderr,{_FILTER}": errors.get(name, "N/A")
            for name, value in found.items()
            if value is not None and math.isfinite(errors.get(name, 0.0))
        },
    }


def _final(certificate: JsonObject) -> list[str]:
    ids: list[str] = certificate["evaluation_windows"]["final"]["window_ids"]
    return ids


def _samples(certificate: JsonObject) -> JsonObject:
    return {"original": certificate["dataset"]["windows"]["available"], "effective": len(_final(certificate))}


def _config(task: str, certificate: JsonObject) -> JsonObject:
    dataset = certificate["dataset"]
    source = dataset.get("source") or {}
    return {
        "task": task,
        "dataset_path": source.get("dataset") or dataset["provider"],
        "dataset_name": source.get("config"),
        "test_split": dataset["split"],
        "output_type": "loglikelihood_rolling",
        "num_fewshot": 0,
        "repeats": 1,
        "metric_list": [{"metric": name, "higher_is_better": higher} for name, higher in _HIGHER.items()],
        "metadata": {"version": _VERSION, "certificate_digest": certificate["certificate_digest"]},
    }


def _date(results: Results) -> float | None:
    try:
        return datetime.fromisoformat(results.time).astimezone(UTC).timestamp() if results.time else None
    except ValueError:
        return None


LM_EVAL = Export("lm-eval", "a results file as lm-evaluation-harness writes it; an edit is a task", _write)
