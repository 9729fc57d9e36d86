"""The files of a model's directory and their root digest, as OpenSSF Model Signing computes it.

The tool ``model_signing`` signs an in-toto statement whose subject has this digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pytest_proofpack.common.files import read_several, sha256_file

_NOT_CONTENT = (".git", ".cache", "model.sig")


def model_content(path: Path) -> list[PurePosixPath]:
    """Return the files of a model's directory, relative to it, links followed, in no order.

    Left out at the top are entries that are not part of the model: ``.git*``, ``.cache`` (the hub's download records,
    which hold times) and the signature ``model.sig``.

    Raises:
        OSError: it cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    found: list[PurePosixPath] = []
    for folder, folders, names in os.walk(path, onerror=fail):
        relative = PurePosixPath(Path(folder).relative_to(path).as_posix())
        if folder == str(path):
            folders[:] = [name for name in folders if not name.startswith(_NOT_CONTENT)]
            names = [name for name in names if not name.startswith(_NOT_CONTENT)]  # noqa: PLW2901
        found.extend(relative / name for name in names if (Path(folder) / name).is_file())
    return found


def root_digest(digests: Iterable[str]) -> str:
    """Return the hexadecimal root digest of files, from their hexadecimal SHA-256 in the order of their paths.

    It is the SHA-256 over the concatenated raw digests. Names are not hashed.
    """
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def directory_digest(path: Path) -> str:
    """Return the hexadecimal root digest of all files of a directory, in the order of their paths part by part.

    Of a file that is a model by itself, it is the digest of a directory with nothing else in it.

    Raises:
        OSError: one of them cannot be read.
    """
    if path.is_file():
        return root_digest([sha256_file(path)])
    return root_digest(read_several(sha256_file, [path / file for file in sorted(model_content(path))]))
