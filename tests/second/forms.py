"""What each field may be.

A text is itself, a pattern a text, a range an integer, a tuple one of these; a list stands for the
form of its items, and the least and the most of them.
"""

import json
import re
from typing import Any

import rfc8785

from second.primitives import RefusedError
from second.sealed import BUNDLE_TYPE

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DIGEST = re.compile(r"[0-9a-f]{64}")
BASE64 = re.compile(r"(?=.{0,16384}\Z)[A-Za-z0-9+/]*={0,2}")
PAYLOAD = re.compile(r"(?=.{0,524288}\Z)[A-Za-z0-9+/]*={0,2}")
SIGNATURE = re.compile(r"(?=.{0,256}\Z)[A-Za-z0-9+/]*={0,2}")
PEM = re.compile(r"(?=.{0,16384}\Z)-----BEGIN [A-Z ]+-----\n.*", re.DOTALL)
UNSEEN = (
    "0000-001F 007F-009F 00AD 034F 0600-0605 061C 06DD 070F 0890-0891 08E2 115F-1160 180E "
    "200B-200F 2028-202E 2060-206F 2800 3164 FEFF FFA0 FFF9-FFFB 110BD 110CD 13430-1343F "
    "1BCA0-1BCA3 1D173-1D17A E0000-E0FFF"
)
TEXT = re.compile(
    "[^" + re.sub("[0-9A-F]+", lambda m: rf"\U{m[0]:0>8}", UNSEEN).replace(" ", "") + "]{0,200}"
)
FAMILY = re.compile(r"[a-z0-9_]{1,63}")
SPAN = {"start": range(2**53), "stop": range(1, 2**53)}

ENVELOPE = {
    "payload": PAYLOAD,
    "payloadType": TEXT,
    "signatures": [{"keyid": DIGEST, "sig": SIGNATURE}, 1, 1],
}
PROFILE = {
    "format": "organ-exchange/profile/v1",
    "site": NAME,
    "certificates": [PEM, 1, 4],
    "sealing_key": BASE64,
}
HEADER = {
    "format": "organ-exchange/sealed/v1",
    "offer": str,
    "profile": PROFILE,
    "wraps": {DIGEST: BASE64},
}
OFFER = {
    "format": "organ-exchange/offer/v1",
    "federation": DIGEST,
    "exchange": NAME,
    "organ_id": re.compile(r"[a-z0-9-]{1,63}/[a-z0-9-]{1,63}"),
    "organ_digest": DIGEST,
    "version": range(1, 2**53),
    "donor": NAME,
    "descriptor": DIGEST,
    "body_sha256": DIGEST,
    "body_bytes": range(1, 2**53),
    "addressees": [DIGEST, 1, 512],
    "wraps_sha256": DIGEST,
    "hidden": (None, DIGEST),
    "not_before": range(2**53),
    "expires": range(2**53),
    "domain": TEXT,
    "base_weights": DIGEST,
    "family": FAMILY,
    "span": SPAN,
}
MANIFEST = {
    "format": "organ-exchange/organ/v1",
    "name": NAME,
    "version": range(1, 2**53),
    "domain": TEXT,
    "licence": TEXT,
    "donor": (None, NAME),
    "base": {
        "family": FAMILY,
        "architecture": TEXT,
        "layers": range(1, 4097),
        "config": dict,
        "layer_config": dict,
        "weights": DIGEST,
        "tokenizer": (None, DIGEST),
    },
    "span": SPAN,
    "tensors": list,
    "stored": dict,
    "training": (None, dict),
    "privacy": dict,
    "audit": (None, DIGEST),
    "parents": [DIGEST, 0, 2**53],
    "merge": (None, dict),
}
CERTIFICATE_BUNDLE = {
    "mediaType": BUNDLE_TYPE,
    "verificationMaterial": {
        "tlogEntries": [None, 0, 0],
        "x509CertificateChain": {"certificates": [{"rawBytes": BASE64}, 1, 4]},
    },
    "dsseEnvelope": ENVELOPE,
}
KEY_BUNDLE = CERTIFICATE_BUNDLE | {
    "verificationMaterial": {"publicKey": {"hint": DIGEST}, "tlogEntries": [None, 0, 0]}
}


def parsed(data: bytes, form: Any) -> dict[str, Any]:
    """A canonical JSON object of a form."""
    try:
        value = json.loads(data)
        same = rfc8785.dumps(value) == data
    except (ValueError, RecursionError):
        raise RefusedError("format", "not JSON") from None
    if not same or not _is(value, form):
        raise RefusedError("format", "not canonical, or another form")
    return dict(value)


def _is(value: Any, form: Any) -> bool:
    match form:
        case type():
            return isinstance(value, form)
        case re.Pattern():
            return isinstance(value, str) and form.fullmatch(value) is not None
        case range():
            return type(value) is int and value in form
        case tuple():
            return any(value is None if one is None else _is(value, one) for one in form)
        case list():
            one, least, most = form
            return (
                isinstance(value, list)
                and least <= len(value) <= most
                and all(_is(item, one) for item in value)
            )
        case dict() if all(isinstance(name, str) for name in form):
            return (
                isinstance(value, dict)
                and set(value) == set(form)
                and all(_is(value[name], one) for name, one in form.items())
            )
        case dict():
            ((name, one),) = form.items()
            return (
                isinstance(value, dict)
                and 1 <= len(value) <= 512
                and all(_is(k, name) and _is(v, one) for k, v in value.items())
            )
        case _:
            return bool(value == form)
