"""Where things are: paths of a run directory, paths of a pack, and the way from one to the other and back.

All paths are relative and use forward slashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_proofpack.common.files import folder_names
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.expected import certificate_folder

MANIFEST = "manifest.json"
CHECKSUMS = "checksums.sha256"
CONTROL_FILES = frozenset({MANIFEST, CHECKSUMS})
"""The files that no digest in the manifest can cover, beside those of the signature."""

README = "README.md"
INDEX = "index.html"

CERTIFICATES = "certs"
CERTIFICATE_FILE = "evaluation.cert.json"
REPORT_FILE = "evaluation.html"
CHECK_FILE = "verify.json"

_RUN_CERTIFICATE = re.compile(rf"([^/]+)/certificates/(.+)/{re.escape(CERTIFICATE_FILE)}")
_RUN_PRESET = re.compile(r"presets/(calibrated_preset_[^/]+\.json)")


@dataclass(frozen=True)
class Layout:
    """One of the two layouts of a pack.

    Attributes:
        name: ``v1`` or ``v2``.
        verdicts: folder of the verdict.
        analysis: folder of the other results.
        state: folder of what the run was asked to do.
    """

    name: str
    verdicts: str
    analysis: str
    state: str

    @property
    def verdict(self) -> str:
        """Path of the verdict as JSON."""
        return f"{self.verdicts}/final_verdict.json"

    @property
    def verdict_text(self) -> str:
        """Path of the verdict as text."""
        return f"{self.verdicts}/final_verdict.txt"

    @property
    def summary(self) -> str:
        """Path of the summary of the self-check."""
        return f"{self.analysis}/verification_summary.json"

    @property
    def repeats(self) -> str:
        """Path of the determinism summary; only there if the run was repeated."""
        return f"{self.analysis}/determinism_repeats.json"

    @property
    def scenarios(self) -> str:
        """Path of the scenarios document with its plan."""
        return f"{self.state}/scenarios.json"

    @property
    def tuned(self) -> str:
        """Path of the tuned-parameters document."""
        return f"{self.state}/tuned_edit_params.json"

    @property
    def revisions(self) -> str:
        """Path of the model revisions."""
        return f"{self.state}/model_revisions.json"

    @property
    def required(self) -> Mapping[str, str]:
        """Run path to pack path of the files that every run has."""
        return {
            "reports/final_verdict.txt": self.verdict_text,
            "reports/final_verdict.json": self.verdict,
            "state/scenarios.json": self.scenarios,
            "state/tuned_edit_params.json": self.tuned,
            "state/model_revisions.json": self.revisions,
        }

    @property
    def optional(self) -> Mapping[str, str]:
        """Run path to pack path of the files that only some runs have."""
        return {"analysis/determinism_repeats.json": self.repeats}

    @property
    def schemas(self) -> Mapping[str, str]:
        """Schema to pack path of the documents whose format is ours, as far as they are there."""
        return {
            "scenarios": self.scenarios,
            "tuned_edit_params": self.tuned,
            "determinism_repeats": self.repeats,
        }

    def pack_path(self, run_path: str) -> str | None:
        """Return where a file of the run directory goes; None if it does not belong in a pack."""
        fixed = self.required.get(run_path) or self.optional.get(run_path)
        if fixed is not None:
            return fixed
        if match := _RUN_CERTIFICATE.fullmatch(run_path):
            return f"{CERTIFICATES}/{match[1]}/{match[2]}/{CERTIFICATE_FILE}"
        if match := _RUN_PRESET.fullmatch(run_path):
            return f"{self.state}/presets/{match[1]}"
        return None

    def run_path(self, pack_path: str) -> str | None:
        """Return where a pack's file came from; None if it was made when packing, or belongs to no run."""
        for source, target in {**self.required, **self.optional}.items():
            if target == pack_path:
                return source
        folder, _, name = pack_path.rpartition("/")
        if folder == f"{self.state}/presets" and _RUN_PRESET.fullmatch(f"presets/{name}"):
            return f"presets/{name}"
        parts = pack_path.split("/", 2)
        if len(parts) == 3 and parts[0] == CERTIFICATES:
            candidate = f"{parts[1]}/certificates/{parts[2]}"
            return candidate if _RUN_CERTIFICATE.fullmatch(candidate) else None
        return None

    def knows(self, pack_path: str) -> bool:
        """Tell whether a pack of this layout may hold a file of this name."""
        if pack_path in {README, INDEX, self.summary} or self.run_path(pack_path) is not None:
            return True
        folder, _, name = pack_path.rpartition("/")
        return name in {REPORT_FILE, CHECK_FILE} and self.run_path(f"{folder}/{CERTIFICATE_FILE}") is not None


V1 = Layout("v1", verdicts="results", analysis="results", state="state")
V2 = Layout("v2", verdicts="results/verdicts", analysis="results/analysis", state="metadata")
LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in (V1, V2)}


def layout_of(paths: Iterable[str]) -> Layout:
    """Return the layout of a pack that holds ``paths``: where its verdict lies tells."""
    return V2 if V2.verdict in set(paths) else V1


def is_certificate(pack_path: str) -> bool:
    """Tell whether a pack's file is a certificate."""
    return pack_path.startswith(f"{CERTIFICATES}/") and pack_path.endswith(f"/{CERTIFICATE_FILE}")


def beside(certificate_path: str, name: str) -> str:
    """Return the path of the file ``name`` in a certificate's folder."""
    return certificate_path.removesuffix(CERTIFICATE_FILE) + name


def expected_path(certificate: Mapping[str, Any], model_list: Iterable[str]) -> str | None:
    """Return the only pack path that a certificate may have; None if its model is not one of ``model_list``."""
    folder = _folders(tuple(model_list)).get(certificate["meta"]["model_id"])
    scenario = certificate["scenario"]
    if folder is None:
        return None
    below = certificate_folder(scenario["id"], scenario["category"], scenario["run"])
    return f"{CERTIFICATES}/{folder}/{below}/{CERTIFICATE_FILE}"


def require_outside_packs(path: Path, option: str) -> None:
    """Make sure that what is to be written does not lie inside a pack, which would not verify any more.

    Args:
        path: the file or directory; it need not be there.
        option: how messages call what names it.

    Raises:
        ConfigurationError: it lies inside of one.
    """
    for folder in path.resolve().parents:
        if all((folder / name).is_file() for name in CONTROL_FILES):
            raise ConfigurationError(f"{option}: {path} lies inside the pack {folder}. Name a place elsewhere.")


@lru_cache(maxsize=4)
def _folders(models: tuple[str, ...]) -> Mapping[str, str]:
    """Return every model's folder, found once for all certificates."""
    return folder_names(models)
