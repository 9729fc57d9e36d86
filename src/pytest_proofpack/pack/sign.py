"""Whether a pack is signed, and by which signer."""

from __future__ import annotations

from enum import StrEnum

from pytest_proofpack.errors import ConfigurationError, PackError
from pytest_proofpack.pack.manifest import Signing
from pytest_proofpack.pack.signers import SIGNERS, Signer, SigningKey, normal_key


class SigningMode(StrEnum):
    """Whether a pack is signed: if possible, always, or never. A signer's name in its place: always, by this one."""

    AUTO = "auto"
    REQUIRED = "required"
    OFF = "off"


def choose_signer(sign: str, key: str | None = None) -> tuple[SigningKey | None, Signing]:
    """Find a key that can sign, by signing something with it.

    Args:
        sign: a :class:`SigningMode`, or the name of a signer.
        key: the key to use and no other, which demands a signature by it; by default one of the signer's choice.

    Returns:
        The key, or None, and what the manifest says about it. Reasons hold no path and no user name.

    Raises:
        ConfigurationError: ``sign`` is neither, or ``key`` names no key as a signer does.
        PackError: a signature is demanded, and nothing can make it.
    """
    wanted = normal_key(key, "--proofpack-gpg-key") if key else None
    if sign == SigningMode.OFF:
        return None, Signing(None, "signing was switched off")
    signers, reasons = _asked(sign), []
    for signer in signers:
        try:
            found = signer.find_key(wanted)
        except PackError as error:
            reasons.append(str(error))
        else:
            return found, Signing(found.fingerprint, None, signer.name)
    if sign == SigningMode.AUTO and wanted is None:
        return None, Signing(None, "; ".join(reasons))
    demand = f"--proofpack-sign={sign}" if wanted is None else f"--proofpack-gpg-key={wanted}"
    instead = "use --proofpack-sign=auto" if wanted is None else "leave --proofpack-gpg-key out"
    raise PackError(
        f"the pack has to be signed ({demand}), but {'; '.join(reasons)}. Nothing was packed. "
        f"{'; '.join(signer.remedy() for signer in signers)}, or {instead}."
    )


def check_signing(sign: str, key: str | None) -> None:
    """Fail before the work, not after it, if a signature is demanded, or a key named, and it cannot be made.

    Raises:
        ConfigurationError, PackError: as :func:`choose_signer`.
    """
    if key is not None or sign not in {SigningMode.AUTO, SigningMode.OFF}:
        choose_signer(sign, key)


def _asked(sign: str) -> list[Signer]:
    if sign in set(SigningMode):
        return list(SIGNERS.values())
    if sign in SIGNERS:
        return [SIGNERS[sign]]
    raise ConfigurationError(
        f"--proofpack-sign: {sign!r} is unknown; choose one of {', '.join([*SigningMode, *SIGNERS])}."
    )
