"""Certificates as they arrive: each has to be of the inputs that the run began with, whatever its worker has read.

A file can change between a worker's death and its replacement, or under one worker of several. What that makes says so
honestly, but it is no part of this run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pytest_proofpack.common.files import FileState, changed_files
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.runs.conditions import Conditions, other_inputs
from pytest_proofpack.runs.run import Run


class Arrivals:
    """Knows the inputs of a run, and of which certificates they are not.

    The digest of a model's weights takes long to compute, and whoever loads the model computes it anyway. So it is
    taken from the first certificate of the model, if every file is still in the state in which the controller checked
    it: then what was measured is what was there when the run began. Where workers of other hosts make certificates, the
    controller computes it from its own files.
    """

    def __init__(
        self,
        run: Run,
        conditions: Mapping[str, Conditions],
        states: Mapping[str, Mapping[Path, FileState]],
        digests: Mapping[str, str],
        *,
        elsewhere: bool,
    ) -> None:
        """Fix the inputs.

        Args:
            run: the run.
            conditions: how certificates are made, by model.
            states: of every file that a model's certificates depend on, when it was checked, by model.
            digests: of the directories of those models that are known already.
            elsewhere: whether workers of other hosts make certificates.
        """
        self._run = run
        self._conditions = dict(conditions)
        self._states = dict(states)
        self._digests = dict(digests)
        self._elsewhere = elsewhere

    def require_same_inputs(self, certificate: JsonObject, request: CertificateRequest) -> None:
        """Make sure that a certificate that fits the schema is of the run's inputs.

        Raises:
            EvaluationError: it is not; the message names what has changed.
        """
        model = request.model.id
        changed = changed_files(self._states[model])
        known = self._digests.get(model)
        if known is None and self._elsewhere:
            known = self._conditions[model].weights()
        found = certificate["provenance"]["model_digest"]["baseline"]
        conditions = replace(self._conditions[model], weights=lambda: known or found)
        why = other_inputs(certificate, request, self._run, conditions)
        if why is None and known is None and changed:
            why = "nobody can tell whether it is of the weights that the run began with"
        if why is None:
            self._digests[model] = found
            return
        files = f" {', '.join(map(str, changed))}: changed on disk since the run began." if changed else ""
        raise EvaluationError(
            printable(
                f"{request.id}: its certificate is not stored: {why}.{files} Restore what the run began with and go on "
                "with --proofpack-resume, or begin a new run."
            )
        )
