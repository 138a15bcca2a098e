"""A signing key that never leaves its hardware token, by PKCS #11.

``signing.uri`` in an identity's folder stands in for ``signing.key``. It holds one line, a URI of
RFC 7512 that names token and object, and where module and PIN are found:

    pkcs11:token=organ;object=clinic?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/x/pin

The key serves as any other ``EllipticCurvePrivateKey``; what would take it out of the token raises.
Sealing keys stay in files: tokens do not know ML-KEM yet.
"""

from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from not_core.errors import KeyFileError
from not_core.trust.certificates import is_p384
from not_core.trust.passphrase import read as read_passphrase

URI_LIMIT = 4096


class TokenKey(ec.EllipticCurvePrivateKey):
    """A private ECDSA P-384 key on a token.

    Args:
        uri: RFC 7512, with ``token``, ``object``, ``module-path`` and ``pin-source``.

    Raises:
        KeyFileError: The URI, module, token, PIN or key cannot be used.
    """

    def __init__(self, uri: str) -> None:
        where = _parsed(uri)
        try:
            import pkcs11
            from pkcs11.exceptions import PKCS11Error, UserAlreadyLoggedIn
            from pkcs11.util.ec import encode_ec_public_key
        except ImportError:
            raise KeyFileError(
                "a key on a token needs the package python-pkcs11; install organ-exchange[keys]"
            ) from None
        self._pkcs11, self._error = pkcs11, PKCS11Error
        pin = read_passphrase(Path(where["pin-source"])).decode()
        try:
            token = pkcs11.lib(where["module-path"]).get_token(token_label=where["token"])
            try:
                session = token.open(user_pin=pin)
            except UserAlreadyLoggedIn:  # this process, by another key: a login is the process's
                session = token.open()
            kinds, label = pkcs11.ObjectClass, where["object"]
            self._key: Any = session.get_key(object_class=kinds.PRIVATE_KEY, label=label)
            public: Any = session.get_key(object_class=kinds.PUBLIC_KEY, label=label)
            key = serialization.load_der_public_key(encode_ec_public_key(public))
        except (PKCS11Error, RuntimeError, ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError(
                f"key {where['object']} on token {where['token']} cannot be used "
                f"({type(error).__name__}); check module, token, PIN and object of the URI"
            ) from None
        if not is_p384(key):
            raise KeyFileError(
                f"key {where['object']} on token {where['token']} is not ECDSA P-384; make one "
                "such as with 'pkcs11-tool --keypairgen --key-type EC:secp384r1'"
            )
        self._public = key

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """An ECDSA signature in DER; the token is given the hash.

        Raises:
            KeyFileError: The token does not sign.
        """
        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, Prehashed):
            hashed = bytes(data)
        else:
            digest = hashes.Hash(algorithm)
            digest.update(data)
            hashed = digest.finalize()
        try:
            raw = self._key.sign(hashed, mechanism=self._pkcs11.Mechanism.ECDSA)
        except self._error as error:
            raise KeyFileError(
                f"the token does not sign ({type(error).__name__}); check that it is plugged in "
                "and its PIN not locked"
            ) from None
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-384."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Bits."""
        return self._public.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Never: the key signs only."""
        raise NotImplementedError("a key on a token only signs")

    def private_numbers(self) -> NoReturn:
        """Never: the key stays on its token."""
        raise NotImplementedError("a key on a token does not leave it")

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> NoReturn:
        """Never: the key stays on its token."""
        raise NotImplementedError("a key on a token does not leave it")

    def __copy__(self) -> "TokenKey":
        """The same key."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "TokenKey":
        """The same key."""
        return self


def _parsed(uri: str) -> dict[str, str]:
    """Attributes of a PKCS #11 URI.

    Raises:
        KeyFileError: Not one, or it lacks one that is needed.
    """
    parts = urlsplit(uri.strip())
    path = (one.split("=", 1) for one in parts.path.split(";") if "=" in one)
    found = {name: unquote(value) for name, value in path} | dict(parse_qsl(parts.query))
    missing = {"token", "object", "module-path", "pin-source"} - found.keys()
    if parts.scheme != "pkcs11" or missing:
        raise KeyFileError(
            f"a key on a token is named by a pkcs11: URI; this one lacks "
            f"{', '.join(sorted(missing)) or 'its scheme'}"
        )
    return found
