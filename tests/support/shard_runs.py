"""Directories as sessions with ``--proofpack-shard`` leave them, with made-up certificates: no model is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pytest_proofpack.certificate.build import Evidence, build_certificate
from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.plan.pins import Pin, Revisions, Role
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.runs.directory import RunDirectory
from pytest_proofpack.runs.run import Run
from tests.support.certificates import make_evidence, make_plan
from tests.support.default_settings import DEFAULTS

VOLATILE: JsonObject = {"tokens_per_second": 1000.0, "libraries": {"torch": "2.9.0", "transformers": "5.0.0"}}


def make_shards(folder: Path, count: int) -> list[Path]:
    """Write the directories 1, 2, ... of a run of one model that passes: every certificate in turn to the next."""
    suite, plan = make_plan()
    made = [build_certificate(_evidence(request)) for request in plan.requests]
    shards = []
    for number in range(1, count + 1):
        own = folder / str(number)
        settings = replace(DEFAULTS, suite=suite.name, out=str(own), shard=f"{number}/{count}")
        pins = {(Role.MODEL, model.id): Pin(None, license="mit") for model in suite.models}
        revisions = Revisions(suite.name, "2026-01-31T12:00:00Z", tuple(model.id for model in suite.models), pins)
        run = Run(settings, suite, plan, resolve_policy("balanced"), own, None, {}, revisions=revisions)
        run = replace(run, share=frozenset(request.id for request in plan.requests[number - 1 :: count]))
        directory = RunDirectory(run)
        directory.create({}, workers=False)
        for certificate in made[number - 1 :: count]:
            directory.store(compact_json(certificate))
        shards.append(own)
    return shards


def _evidence(request: CertificateRequest) -> Evidence:
    evidence = make_evidence(request)
    model = replace(evidence.model, determinism={"requested": "throughput", "reached": "strict"})
    return replace(evidence, model=model, volatile=VOLATILE)
