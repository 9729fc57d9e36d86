"""The attestor ``sigstore``: no key, but an identity that Sigstore's services certify for minutes and log in public.

All of it is done by the package sigstore. Attesting reaches its services; verifying needs only the root of trust that
comes with that package, or that of an instance of one's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_proofpack.errors import ConfigurationError, FormatError, PackError
from pytest_proofpack.pack.attestations.attestor import AttestationReport, Attestor, claimed_name
from pytest_proofpack.pack.attestations.bundle import PAYLOAD_TYPE, Bundle, decoded
from pytest_proofpack.pack.attestations.trust import AttestTrust
from pytest_proofpack.pack.key_files import read_key_files

if TYPE_CHECKING:
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken

_INSTALL = "pip install 'pytest-proofpack[sigstore]'"
_ISSUER = "1.3.6.1.4.1.57264.1.8"
"""Extension of Sigstore's certificates: who vouches for the identity (Fulcio, docs/oid-info.md)."""
_MAX_NAMES = 3
_ANY_IDENTITY = (
    "there is no identity here: a CI job needs the permission to get an OpenID Connect token (GitHub: id-token: write)"
)


@dataclass(frozen=True)
class AmbientIdentity:
    """Whoever this CI job is, as its provider certifies; asked anew for every signature, as tokens are short-lived.

    Attributes:
        attester: the identity, as the token has it; a certificate may name it in another way.
    """

    attester: str
    _trust_config: bytes | None = field(repr=False)

    def sign(self, statement: bytes) -> bytes:
        """Have a key of this moment certified, sign with it, have that logged, and return the bundle."""
        from sigstore import dsse
        from sigstore.sign import SigningContext

        token = _token()
        try:
            context = SigningContext.from_trust_config(_services(self._trust_config))
            with context.signer(token) as signer:
                bundle = signer.sign_dsse(dsse.Statement(statement))
        except Exception as error:  # the errors of the package's clients have no class in common
            raise PackError(f"Sigstore's services did not attest ({type(error).__name__}: {error})") from error
        return bundle.to_json().encode() + b"\n"


class ByIdentity(Attestor):
    """Fulcio's certificate, Rekor's entry and the signed statement, checked against an identity and its issuer."""

    name = "sigstore"
    material = "certificate"
    needs_network = True
    needs = _INSTALL

    def open(self, key: str | None, trust_config: str | None) -> AmbientIdentity:
        """Find the identity of this CI job."""
        if key is not None:
            raise ConfigurationError(
                "--proofpack-attest=sigstore has no use for a key: leave out --proofpack-attest-key."
            )
        _require_sigstore()
        config = next(
            iter(read_key_files([trust_config] if trust_config else [], "--proofpack-attest-trust-config")), None
        )
        if config is not None:
            _trust_config(config)
        return AmbientIdentity(_token().identity, config)

    def check_trust(self, trust: AttestTrust) -> None:
        """Read the root of trust."""
        _require_sigstore()
        if trust.trust_config is not None:
            _trust_config(trust.trust_config)

    def trusts_anybody(self, trust: AttestTrust) -> bool:
        """Tell whether there is an identity to trust."""
        return trust.identity is not None

    def claimed(self, bundle: Bundle) -> str:
        """Return the identity in the certificate."""
        try:
            from cryptography import x509
        except ImportError:
            return f"an identity that the package cryptography is needed to read ({_INSTALL})"
        named = bundle.verification[self.material]
        try:
            raw = decoded(named.get("rawBytes") if isinstance(named, dict) else None, "certificate")
            extensions = x509.load_der_x509_certificate(raw).extensions
            names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            issuer = extensions.get_extension_for_oid(x509.ObjectIdentifier(_ISSUER)).value
        except (FormatError, *_malformed()):  # type: ignore[misc]
            return "a certificate that names nobody"
        kinds = x509.RFC822Name, x509.UniformResourceIdentifier
        found = [claimed_name(name) for kind in kinds for name in names.get_values_for_type(kind)]
        # A UTF8String in DER: a byte for its kind, one or more for its length, the text.
        value = issuer.value if isinstance(issuer, x509.UnrecognizedExtension) else b""
        says = claimed_name(value[2:].decode("utf-8", "replace")) or "nobody"
        return f"{', '.join(filter(None, found[:_MAX_NAMES])) or 'nobody'} (says {says})"

    def verify(self, bundle: Bundle, trust: AttestTrust) -> AttestationReport:
        """Let the package sigstore check certificate, log entry and signature, without network."""
        from sigstore.errors import Error
        from sigstore.models import Bundle as SigstoreBundle
        from sigstore.verify import Verifier
        from sigstore.verify.policy import Identity

        assert trust.identity is not None
        try:
            verifier = Verifier(trusted_root=_root(trust.trust_config).trusted_root)
            policy = Identity(identity=trust.identity, issuer=trust.issuer)
            signed = verifier.verify_dsse(SigstoreBundle.from_json(bundle.raw), policy)
            if signed != (PAYLOAD_TYPE, bundle.payload):
                raise ValueError("two readings of one bundle")
        except (Error, OSError, KeyError, *_malformed()) as error:  # type: ignore[misc]
            why = str(error) or type(error).__name__
            return AttestationReport(
                self.claimed(bundle), pinned=False, findings=(f"the attestation does not hold: {why}",)
            )
        return AttestationReport(f"{trust.identity} (says {trust.issuer})", pinned=True)


def _malformed() -> tuple[type[Exception], ...]:
    """Return what cryptography raises on certificates that are not as they should be."""
    from cryptography import x509

    named = x509.ExtensionNotFound, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType
    return ValueError, TypeError, *named


def _require_sigstore() -> None:
    try:
        import sigstore  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"an attestation by an identity needs the package sigstore, which is not installed. Install it: {_INSTALL}"
        ) from error


def _token() -> IdentityToken:
    """Return a token of this CI job.

    Raises:
        PackError: there is none to be had.
    """
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential

    try:
        raw = detect_credential()
        if raw is None:
            raise PackError(_ANY_IDENTITY)
        return IdentityToken(raw)
    except IdentityError as error:
        raise PackError(f"{_ANY_IDENTITY}; its provider says: {error}") from error


def _services(config: bytes | None) -> ClientTrustConfig:
    """Return where the services are, asked anew if they are the public ones."""
    from sigstore.models import ClientTrustConfig

    return _trust_config(config) if config is not None else ClientTrustConfig.production()


def _root(config: bytes | None) -> ClientTrustConfig:
    """Return the root of trust without asking anybody."""
    from sigstore.models import ClientTrustConfig

    return _trust_config(config) if config is not None else ClientTrustConfig.production(offline=True)


def _trust_config(config: bytes) -> ClientTrustConfig:
    from sigstore.errors import Error
    from sigstore.models import ClientTrustConfig

    try:
        found = ClientTrustConfig.from_json(config.decode())
        _ = found.trusted_root
    except (Error, ValueError) as error:
        raise ConfigurationError(f"the attest trust config is no client trust config of Sigstore's: {error}") from error
    return found


SIGSTORE = ByIdentity()
