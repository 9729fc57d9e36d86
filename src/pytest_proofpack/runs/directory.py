"""The run directory: state of a run, its certificates as they arrive, and its verdict. Only the controller writes it.

The exceptions are ``<model>/baseline``, where workers share the baseline's losses, and ``logs``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pytest_proofpack import __version__
from pytest_proofpack.certificate import repeats
from pytest_proofpack.certificate.formats import certificate_digest
from pytest_proofpack.certificate.presets import preset_document, preset_name
from pytest_proofpack.certificate.schema import certificate_findings
from pytest_proofpack.certificate.verdict import certificate_key, compute_verdict
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.strict_json import JsonObject, parse_json, pretty_json, read_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.pack.ahead import Ahead
from pytest_proofpack.pack.layout import LAYOUTS
from pytest_proofpack.plan.expected import Key, expected_certificates
from pytest_proofpack.plan.pins import now
from pytest_proofpack.plan.records import Category, CertificateRequest
from pytest_proofpack.report import verdict_text
from pytest_proofpack.runs.arrivals import Arrivals
from pytest_proofpack.runs.claim import require_there
from pytest_proofpack.runs.paths import (
    ANALYSIS,
    MARKER,
    REPORTS,
    REVISIONS,
    SCENARIOS,
    SHARED,
    TUNED,
    certificate_path,
)
from pytest_proofpack.runs.run import Run


class RunDirectory:
    """Writes one run's directory; every file appears whole or not at all."""

    def __init__(self, run: Run, arrivals: Arrivals | None = None) -> None:
        """Write nothing yet.

        Args:
            run: the run.
            arrivals: knows which certificates are of other inputs; None lets all pass.
        """
        self._run = run
        self._arrivals = arrivals
        self._document = run.plan.document(run.suite)
        self._expected: dict[Key, CertificateRequest] = {
            (request.model.id, request.scenario.id, request.run): request for request in run.requests
        }
        self.ahead = (
            None
            if run.pack_dir is None
            else Ahead(expected_certificates(self._document), html=not run.settings.no_html)
        )
        self._repeats: dict[int, repeats.MadeCertificate] = {}
        self._disregarded: set[Path] = set()
        self.network_mode = "online" if run.settings.net else "offline"

    @property
    def disregarded(self) -> int:
        """How many certificates lie here that this session does not reuse and has not made again."""
        return len(self._disregarded)

    def create(self, measured_under: Mapping[str, str], *, workers: bool, started_at: str | None = None) -> None:
        """Write the state of a new run.

        Args:
            measured_under: by model, a digest of what measurements of its baseline depend on.
            workers: whether several processes make certificates, and share what they measure on baselines.
            started_at: when it began, UTC; None for now.
        """
        if workers:
            atomic_write(self._run.out / SHARED, b"")
        self._write(SCENARIOS, self._document)
        self._write(TUNED, self._run.suite.tuned)
        self._write(REVISIONS, self._run.revisions.document())
        # Last: a worker that sees this file knows that it shares the directory with the controller.
        self._write(MARKER, {**self._session(measured_under), "started_at": started_at or now()})

    def go_on(
        self, earlier: JsonObject, measured_under: Mapping[str, str], disregarded: Iterable[CertificateRequest]
    ) -> None:
        """Bring the state of a run up to date that this session goes on with, and share baselines from now on.

        Args:
            earlier: what the sessions before wrote as ``state/run.json``.
            measured_under: as for :meth:`create`.
            disregarded: requests whose certificates are not reused: they stay until they are made again, and don't
                count.
        """
        self._disregarded = {certificate_path(self._run.out, request) for request in disregarded}
        request = repeats.repeated_request(self._run.requests)
        if self._certificate_file(request) is None:  # what is to be made again was compared with something else
            (self._run.out / ANALYSIS / repeats.FILE).unlink(missing_ok=True)
        if earlier["network_mode"] == "online":
            self.network_mode = "online"
        times = {"started_at": earlier["started_at"], "resumed_at": [*earlier.get("resumed_at", []), now()]}
        atomic_write(self._run.out / SHARED, b"")
        self._write(MARKER, {**self._session(measured_under), **times})

    def _session(self, measured_under: Mapping[str, str]) -> JsonObject:
        """Return what ``state/run.json`` says of the run but for times."""
        run, settings = self._run, self._run.settings
        return {
            "suite": run.suite.name,
            **({"mode": settings.mode} if run.tunes else {}),
            **({"shard": settings.shard} if settings.shard is not None else {}),
            "tier": settings.tier,
            "profile": settings.profile,
            "determinism": settings.determinism,
            "network_mode": self.network_mode,
            "policy_digest": run.policy.digest,
            "measured_under": dict(measured_under),
            "tool": {"name": "pytest-proofpack", "version": __version__},
        }

    def _certificate_file(self, request: CertificateRequest) -> Path | None:
        """Return the file of a request's certificate; None if there is none that counts."""
        path = certificate_path(self._run.out, request)
        return path if path.is_file() and path not in self._disregarded else None

    def store(self, text: str) -> tuple[JsonObject, CertificateRequest]:
        """Write one certificate as it came from the worker that made it.

        Returns:
            The certificate, as nobody else holds it, and the request that it answers.

        Raises:
            FormatError: it is no valid certificate, or none that this run asked for.
            EvaluationError: it is of other inputs than the run's; see :mod:`pytest_proofpack.runs.arrivals`.
            StorageError: it cannot be written.
        """
        certificate, request = self._certificate(text)
        require_there(self._run.out)
        path, content = certificate_path(self._run.out, request), pretty_json(certificate)
        atomic_write(path, content)
        self._disregarded.discard(path)
        target = LAYOUTS[self._run.settings.layout].pack_path(path.relative_to(self._run.out).as_posix())
        if self.ahead is not None and target is not None:
            self.ahead.begin(target, content.encode())
        return certificate, request

    def note_repeat(self, text: str, number: int, worker: str | None) -> None:
        """Keep of a repeated certificate what the summary of the repeats needs.

        Args:
            text: the certificate as it came.
            number: which repeat it is, from 1.
            worker: name of the worker that made it, if there are workers.

        Raises:
            FormatError: as :meth:`store`, or its digest is not that of what it holds.
            EvaluationError: as :meth:`store`.
        """
        certificate, _ = self._certificate(text)
        if certificate["certificate_digest"] != certificate_digest(certificate):
            raise FormatError("a worker sent a certificate whose digest does not match its content")
        self._repeats[number] = repeats.sample_of(certificate, number, worker)

    def _certificate(self, text: str) -> tuple[JsonObject, CertificateRequest]:
        """Return a certificate as a worker sent it, if it is a valid one that this run asked for, and the request."""
        certificate = parse_json(text.encode(), "certificate from a worker")
        findings = certificate_findings(certificate)
        if findings:
            raise FormatError(f"a worker sent an invalid certificate: {'; '.join(findings)}")
        key = certificate_key(certificate)
        if key not in self._expected:
            raise FormatError(f"a worker sent a certificate that nobody asked for: {key}")
        request = self._expected[key]
        if self._arrivals is not None:
            self._arrivals.require_same_inputs(certificate, request)
        return certificate, request

    def certificates(self) -> Iterator[JsonObject]:
        """Read back every certificate that there is and that counts, in the order of the plan."""
        for path in filter(None, map(self._certificate_file, self._run.requests)):
            yield read_json(path, str(path.relative_to(self._run.out)), below=self._run.out)

    def verdict(self) -> JsonObject:
        """Compute the verdict over what is there."""
        return compute_verdict(self._document, self.certificates())

    def write_verdict(self, verdict: JsonObject) -> None:
        """Write the verdict as JSON and text.

        Raises:
            StorageError: it cannot be written.
        """
        atomic_write(self._run.out / REPORTS / "final_verdict.json", pretty_json(verdict))
        atomic_write(self._run.out / REPORTS / "final_verdict.txt", verdict_text(verdict))

    def repeats(self) -> JsonObject | None:
        """Compare the repeats with the certificate that they repeat; None without repeats."""
        settings = self._run.settings
        if not settings.repeats:
            return None
        request = repeats.repeated_request(self._run.requests)
        samples = list(self._repeats.values())
        path = self._certificate_file(request)
        if path is not None:
            samples.append(repeats.sample_of(read_json(path, below=self._run.out), 0))
        return repeats.summarize(repeats.RepeatRequest(request, settings.repeats, settings.determinism), samples)

    def write_repeats(self, summary: JsonObject | None) -> None:
        """Write the summary of the repeats; without one, remove what an earlier session left.

        Raises:
            StorageError: it cannot be written.
        """
        target = self._run.out / ANALYSIS / repeats.FILE
        if summary is None:
            target.unlink(missing_ok=True)
        else:
            atomic_write(target, pretty_json(summary))

    def write_presets(self) -> None:
        """Write the preset of every model that was calibrated."""
        folders = self._run.suite.folders
        calibrated: dict[str, list[JsonObject]] = defaultdict(list)
        for certificate in self.certificates():
            if certificate["scenario"]["category"] == Category.CALIBRATION and certificate["rmt"]["null_log_ratios"]:
                calibrated[certificate["meta"]["model_id"]].append(certificate)
        for model, certificates in calibrated.items():
            path = self._run.out / "presets" / preset_name(folders[model])
            atomic_write(path, pretty_json(preset_document(certificates, self._run.policy)))

    def _write(self, path: Path, document: JsonObject) -> None:
        atomic_write(self._run.out / path, pretty_json(document))
