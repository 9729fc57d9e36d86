"""What came of every clean edit that a run tunes, in its directory, and the tuned-parameters file at the end.

Only the controller writes. A result of an earlier session is used again if it was made of this model, text and windows,
for this edit and policy, by these versions, and is as it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pytest_proofpack import __version__
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.strict_json import JsonObject, parse_json, pretty_json, read_json, sha256_of
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.plan.climbing import MARGIN
from pytest_proofpack.plan.edit_specs import edit_from_tuned_entry
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.plan.tuning import judged_runs, tuned_document
from pytest_proofpack.runs.claim import require_there
from pytest_proofpack.runs.conditions import Conditions
from pytest_proofpack.runs.paths import TUNED_FILE, TUNING_RESULT
from pytest_proofpack.runs.resume import Reusable
from pytest_proofpack.runs.run import Run


class TuningDirectory:
    """Keeps the results of a run that tunes; every file appears whole or not at all."""

    def __init__(self, run: Run, conditions: Mapping[str, Conditions]) -> None:
        """Begin with the results that the run reuses.

        Args:
            run: the run, complete.
            conditions: how certificates are made now, by model.
        """
        self._run = run
        self._conditions = conditions
        self._requests = {(request.model.id, request.edit_name): request for request in run.requests}
        self._results: dict[str, JsonObject] = dict(run.reused)

    @property
    def results(self) -> list[JsonObject]:
        """What there is, in the order of the plan."""
        return [self._results[request.id] for request in self._run.requests if request.id in self._results]

    @property
    def missing(self) -> int:
        """How many results are missing."""
        return len(self._run.requests) - len(self._results)

    def store(self, text: str) -> None:
        """Write one result as it came from the worker that made it.

        Raises:
            FormatError: it is none, or none that this run asked for.
            StorageError: it cannot be written, or the run's directory is gone.
        """
        result = parse_json(text.encode(), "tuning result from a worker")
        request = self._requests.get((result.get("model", ""), result.get("edit", "")))
        if request is None:
            raise FormatError("a worker sent tuned parameters that nobody asked for")
        _require_usable(result, request)
        digest = result["measured"]["model_digest"]
        made_under = _made_under(request, self._run, self._conditions[request.model.id], digest)
        require_there(self._run.out)
        document = {"made_under": made_under, "sha256": sha256_of(result), "result": result}
        atomic_write(_path(self._run, request), pretty_json(document))
        self._results[request.id] = result

    def write(self) -> Path:
        """Write the tuned-parameters file, and return its path.

        Raises:
            StorageError: it cannot be written, or the run's directory is gone.
        """
        require_there(self._run.out)
        run, settings = self._run, self._run.settings
        facts = {
            "tool": {"name": "pytest-proofpack", "version": __version__},
            "suite": run.suite.name,
            "tier": settings.tier,
            "profile": settings.profile,
            "policy_digest": run.policy.digest,
            "runs": dict(run.suite.runs),
            "windows_unused_by_runs": judged_runs(run.suite),
        }
        path = run.out / TUNED_FILE
        atomic_write(path, pretty_json(tuned_document(run.suite, self.results, facts)))
        return path


def scan_tunings(run: Run, conditions: Mapping[str, Conditions]) -> Reusable:
    """Look at every result that a run directory holds.

    Args:
        run: the run, with every source resolved.
        conditions: how certificates are made now, by model.
    """
    reused: dict[str, JsonObject] = {}
    refused: dict[str, str] = {}
    for request in run.requests:
        path = _path(run, request)
        if not path.is_file():
            continue
        try:
            document = read_json(path, below=run.out)
            result = document["result"]
            _require_usable(result, request)
        except (FormatError, LookupError, TypeError, AttributeError):
            refused[request.id] = "it cannot be read"
            continue
        now = conditions[request.model.id]
        if document.get("sha256") != sha256_of(result):
            refused[request.id] = "it is not as it was written"
        elif document.get("made_under") != _made_under(request, run, now, now.weights()):
            refused[request.id] = "it was made under other conditions"
        else:
            reused[request.id] = result
    return Reusable(len(run.requests), reused, refused, {}, "tuned edits")


def _path(run: Run, request: CertificateRequest) -> Path:
    return run.out / request.folder / TUNING_RESULT


def _require_usable(result: JsonObject, request: CertificateRequest) -> None:
    """Make sure that the parameters of a result can be used.

    Raises:
        FormatError: they cannot.
    """
    try:
        edit_from_tuned_entry(request.edit_name, result["entry"], request.id)
    except (ConfigurationError, LookupError, TypeError, AttributeError) as error:
        raise FormatError(f"{request.id}: these are no tuned parameters ({error})") from error


def _made_under(request: CertificateRequest, run: Run, conditions: Conditions, model_digest: str) -> str:
    """Return the digest of all that a result depends on."""
    return sha256_of(
        {
            "edit": asdict(request)["edit"],
            "scenario": request.scenario.id,
            "margin": MARGIN,
            "model": model_digest,
            "revision": request.model.revision,
            "conditions": conditions.fingerprint,
            "policy": run.policy.digest,
            "determinism": run.settings.determinism,
            "runs": dict(run.suite.runs),
            "version": __version__,
        }
    )
