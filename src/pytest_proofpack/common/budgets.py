"""What reading somebody else's pack may cost, in one place: beyond it a thing is refused before any work is done on it.

Each limit lies well above what an honest pack of the largest suite needs. docs/pack-format.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Budgets:
    """The limits.

    Attributes:
        files: files, links, folders and whatever else of a pack.
        path_bytes: of a file's path, as UTF-8.
        name_bytes: of one part of a path.
        folder_depth: how deep folders may nest.
        file_bytes: size of one file, pages included.
        pack_bytes: size of all files together.
        manifest_bytes, checksums_bytes, document_bytes: size of ``manifest.json``, of ``checksums.sha256``, and of any
            other JSON document: a certificate, the scenarios, the verdict.
        attestation_bytes, attestation_values: of the attestation; what it states is one value of it.
        json_bytes: size of all JSON documents of a pack that are parsed.
        json_depth: how deep values may nest.
        json_values: values of one document, counted as its commas and opening brackets.
        json_values_each, spare_json_values: values of all documents that are parsed: so many a certificate, and as many
            to spare.
        schema_findings: departures from a schema that are looked for in one document; then the search ends.
        bad_documents: documents with findings after which no more are parsed.
        planned: certificates that the scenarios of a pack may plan.
        resamples: windows x (resamples + windows), of the bootstrap of one certificate.
        resamples_each, spare_resamples: the same of all certificates of a pack: so many each, and as many to spare.
    """

    files: int = 20_000
    path_bytes: int = 1024
    name_bytes: int = 255
    folder_depth: int = 12
    file_bytes: int = 16 * MIB
    pack_bytes: int = 1024 * MIB
    manifest_bytes: int = 8 * MIB
    checksums_bytes: int = 4 * MIB
    document_bytes: int = 4 * MIB
    attestation_bytes: int = 2 * MIB
    attestation_values: int = 2000
    json_bytes: int = 512 * MIB
    json_depth: int = 32
    json_values: int = 250_000
    json_values_each: int = 12_000
    spare_json_values: int = 2_000_000
    schema_findings: int = 10
    bad_documents: int = 10
    planned: int = 20_000
    resamples: int = 100_000_000
    resamples_each: int = 1_500_000
    spare_resamples: int = 1_000_000_000

    def all_json_values(self, certificates: int) -> int:
        """Return how many values the documents of a pack with so many certificates may hold."""
        return self.spare_json_values + certificates * self.json_values_each

    def all_resamples(self, certificates: int) -> int:
        """Return how many windows the bootstraps of a pack with so many certificates may draw."""
        return self.spare_resamples + certificates * self.resamples_each


BUDGETS = Budgets()
