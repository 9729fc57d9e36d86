"""Running gpg: without any configuration of the user's, in one language, and leaving nothing behind.

``--no-options`` keeps what a ``gpg.conf`` may hold out of it: text mode, a second signer, notations, an expiry or a
faked clock, an output file, a broken line. It also keeps gpg from making a home folder. What is lost is a ``keyring``
line; ``default-key`` is read from there by :func:`default_key`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess  # nosec: gpg, by absolute path, without a shell
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

TIMEOUT_SECONDS = 60
"""How long gpg may take, with a key on a card that has to be touched, say."""
CHECK_SECONDS = 10
"""How long it may take over what others made: a signature, or keys, take it a fraction of a second."""
SOCKET_PATH_BYTES = 107
"""Longest path of a socket on Linux (unix(7): 108 bytes with the closing zero)."""

_ALWAYS = ("--no-options", "--batch", "--no-tty", "--status-fd", "1")
_NO_PASSPHRASE = frozenset({11, 85, 99})
"""gpg-error's numbers of a bad passphrase, no pinentry, and an operation that was cancelled (err-codes.h.in)."""
_FAILED = re.compile(r"^gpg: signing failed: (.{1,100})$", re.MULTILINE)
_NO_AGENT = "can't connect to the agent"


@dataclass(frozen=True)
class GpgResult:
    """What gpg did.

    Attributes:
        status: its status lines (GnuPG, doc/DETAILS), split at spaces, without the leading ``[GNUPG:]``.
        output: all that it wrote to standard output, status lines among it.
        messages: what it says to people, in English; may hold paths and user names.
        good: whether it exited with 0.
    """

    status: list[list[str]]
    output: bytes
    messages: str
    good: bool

    def colons(self, *kinds: str) -> Iterator[list[str]]:
        """Yield the fields of every line of a listing that is of one of these kinds (doc/DETAILS)."""
        for line in self.output.split(b"\n"):
            fields = line.decode("utf-8", "replace").split(":")
            if fields[0] in kinds:
                yield fields

    @property
    def needs_passphrase(self) -> bool:
        """Whether it failed because nobody was there to enter a passphrase."""
        codes = [line[-1] for line in self.status if line[0] == "FAILURE"]
        return any(code.isdecimal() and int(code) & 0xFFFF in _NO_PASSPHRASE for code in codes)

    @property
    def reason(self) -> str:
        """Why it failed, in gpg's own words, but without a path or a name in them."""
        if _NO_AGENT in self.messages:
            return f"gpg cannot reach its agent{_path_problem()}"
        found = _FAILED.search(self.messages)
        return f"gpg says: {found[1]}" if found else "gpg does not say why"


def gpg_binary() -> str | None:
    """Return the absolute path of gpg, or None. A program of that name in the working directory does not count."""
    return _binary("gpg")


def run_gpg(
    gpg: str, arguments: list[str], data: bytes = b"", home: Path | None = None, seconds: float = TIMEOUT_SECONDS
) -> GpgResult:
    """Run gpg and wait for it.

    Args:
        gpg: its absolute path.
        arguments: its command and options, beside those that it always gets.
        data: its standard input.
        home: its home folder; None for the user's.
        seconds: how long it may take.

    Raises:
        OSError, subprocess.TimeoutExpired: it does not start or does not end.
    """
    where = ["--homedir", str(home)] if home is not None else []
    done = _run([gpg, *_ALWAYS, *where, *arguments], data, seconds)
    # Lines end in b"\n" only: str.splitlines knows nine more separators, which a user id may contain.
    lines = [line.decode("utf-8", "replace").split(" ") for line in done.stdout.split(b"\n")]
    status = [line[1:] for line in lines if line[0] == "[GNUPG:]" and len(line) > 1]
    return GpgResult(status, done.stdout, done.stderr.decode("utf-8", "replace"), done.returncode == 0)


def no_answer(error: OSError | subprocess.TimeoutExpired) -> str:
    """Say what happened to a gpg that gave no answer, and what to do."""
    if isinstance(error, subprocess.TimeoutExpired):
        return (
            f"gpg did not end within {error.timeout:.0f} s and was stopped. See whether gpg --list-keys answers "
            "(another gpg may hold the keyring), and try again"
        )
    return f"gpg does not start ({type(error).__name__}). See whether gpg --version answers, and try again"


@contextmanager
def empty_home() -> Iterator[Path]:
    """Yield a home folder that holds no key and is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="proofpack-") as folder:
        yield Path(folder)


@contextmanager
def home_or_empty() -> Iterator[Path | None]:
    """Yield None for the user's home folder, or an empty one where the user has none: it is never made."""
    if user_home().is_dir():
        yield None
    else:
        with empty_home() as folder:
            yield folder


def user_home() -> Path:
    """Return the user's home folder of gpg, which need not be there."""
    given = os.environ.get("GNUPGHOME")
    return Path(given) if given else Path.home() / ".gnupg"


@contextmanager
def no_agent_left() -> Iterator[None]:
    """End the agent that gpg starts inside of this block; one that ran before is left alone."""
    ran_before = _agent_runs()
    try:
        yield
    finally:
        if not ran_before and _agent_runs():
            _ask("gpgconf", "--kill", "gpg-agent")


def default_key() -> str | None:
    """Return what ``default-key`` of the user's configuration names."""
    for line in _ask("gpgconf", "--list-options", "gpg").split("\n"):
        fields = line.split(":")
        if fields[0] == "default-key" and len(fields) > 9 and fields[9].startswith('"'):
            return unquote(fields[9][1:].split(",")[0]) or None
    return None


def _binary(name: str) -> str | None:
    found = shutil.which(name)
    return found if found and Path(found).is_absolute() else None


def _run(command: list[str], data: bytes = b"", seconds: float = TIMEOUT_SECONDS) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LC_ALL": "C", "LANGUAGE": "C"}
    return subprocess.run(  # noqa: S603
        command, input=data, capture_output=True, timeout=seconds, check=False, env=environment
    )


def _ask(name: str, *arguments: str) -> str:
    """Return what a program of GnuPG's says; nothing if it is not there, or fails."""
    program = _binary(name)
    if program is None:
        return ""
    try:
        done = _run([program, *arguments])
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def _agent_runs() -> bool:
    return bool(_ask("gpg-connect-agent", "--no-autostart", "GETINFO pid", "/bye"))


def _path_problem() -> str:
    socket = unquote(_ask("gpgconf", "--list-dirs", "agent-socket").strip())
    if (size := len(os.fsencode(socket))) <= SOCKET_PATH_BYTES:
        return ""
    return f": the path of its socket has {size} bytes, more than the {SOCKET_PATH_BYTES} allowed. Shorten GNUPGHOME"
