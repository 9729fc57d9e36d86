"""Throwaway GnuPG keyrings for tests: real gpg, real keys, in a directory of their own."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

AGES_AGO = "20200601T000000"
"""A moment for ``at`` that lies far in the past."""


class Keyring:
    """One ``GNUPGHOME``; close it to end its agent and remove it."""

    def __init__(self) -> None:
        # The agent's socket lives here, and the path of a socket has to be short: no pytest directory will do.
        self.home = Path(tempfile.mkdtemp(prefix="gpg-"))

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment in which gpg uses this keyring."""
        return {**os.environ, "GNUPGHOME": str(self.home)}

    def gpg(self, *arguments: str, data: bytes = b"", at: str | None = None) -> bytes:
        """Run gpg, at a faked time if ``at`` is given, and return its output."""
        clock = ["--faked-system-time", at] if at else []
        command = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", *clock, *arguments]
        result = subprocess.run(command, input=data, capture_output=True, env=self.environment, check=False)
        assert result.returncode == 0, result.stderr.decode()
        return result.stdout

    def make_key(
        self, name: str = "Maker", kind: str = "ed25519", *, expires: str = "never", at: str | None = None
    ) -> str:
        """Make a signing key without a passphrase and return its fingerprint."""
        self.gpg("--quick-generate-key", f"{name} <{name.lower()}@example.org>", kind, "sign", expires, at=at)
        return self.fingerprints()[-1]

    def fingerprints(self) -> list[str]:
        """Return the primary fingerprints of all keys, in the order in which they came."""
        lines = self.gpg("--list-keys", "--with-colons").decode().split("\n")
        following = itertools.pairwise(lines)
        return [line.split(":")[9] for before, line in following if before.startswith("pub:")]

    def sign(self, data: bytes, key: str, *options: str, at: str | None = None) -> bytes:
        """Return a detached, armored signature."""
        return self.gpg("--local-user", key, "--armor", *options, "--detach-sign", data=data, at=at)

    def revoke(self, key: str) -> None:
        """Revoke a key with the certificate that gpg made along with it."""
        text = (self.home / "openpgp-revocs.d" / f"{key}.rev").read_text(encoding="utf-8")
        self.gpg("--import", data=text.replace(":-----BEGIN", "-----BEGIN").encode())

    def copy_public_keys_to(self, other: Keyring) -> None:
        """Import the public keys of this keyring into another."""
        other.gpg("--import", data=self.gpg("--export"))

    def close_agent(self) -> None:
        """End the agent, which remembers passphrases."""
        subprocess.run(["gpgconf", "--kill", "all"], env=self.environment, check=False, capture_output=True)

    def close(self) -> None:
        """End the agent and remove the directory."""
        self.close_agent()
        shutil.rmtree(self.home, ignore_errors=True)
