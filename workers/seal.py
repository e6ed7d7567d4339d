"""Signs one file with a C2PA manifest. It runs alone in a limited subprocess, because it reads a tenant's clip as well.

`python -I seal.py` reads one JSON object, the order, from its standard input and prints another one: `{"signer": …}`
about the certificate, or `{"code", "detail"}` for why nothing was signed. An order without `made` signs a picture of
one pixel instead: so it is known before hours of work whether the certificate and the key are of use.
"""

import ctypes
import io
import json
import resource
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
PIXEL = bytes.fromhex("47494638396101000100800000000000ffffff2c00000000010001000002024401003b")
SETTINGS = {
    # a clip may name an address where its history is to be had: nobody is called
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": True},
    "builder": {"thumbnail": {"enabled": False}},
}
SOUND = ("Valid", "Trusted")
CURVES = {"secp256r1": b"es256", "secp384r1": b"es384", "secp521r1": b"es512"}


class Refused(Exception):
    """Nothing was signed: `code` is one of `provenance.*` of the job's errors."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def unplug() -> None:
    """Leave the network, where the kernel lets an ordinary user do so."""
    ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK)


def confine(limits: dict[str, int]) -> None:
    """No more memory, processor time or disk than signing a file of this size needs."""
    for name, kind in (("memory_bytes", resource.RLIMIT_AS), ("cpu_seconds", resource.RLIMIT_CPU)):
        resource.setrlimit(kind, (limits[name], limits[name]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"], limits["file_bytes"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def algorithm(public: Any) -> bytes:
    """C2PA's name of how a key of this kind signs."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in CURVES:
        return CURVES[public.curve.name]
    if isinstance(public, ed25519.Ed25519PublicKey):
        return b"ed25519"
    if isinstance(public, rsa.RSAPublicKey):
        return b"ps256"
    raise Refused("provenance.unavailable", "the key is of a kind that C2PA does not know: take EC P-256 to P-521")


def open_signer(c2pa: Any, certificates: str, key: str) -> tuple[Any, dict[str, str]]:
    """The signer, and what may be told about it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    try:
        leaf = x509.load_pem_x509_certificates(certificates.encode())[0]
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError, IndexError):
        raise Refused("provenance.unavailable", "the certificate or the key is not readable PEM") from None
    plain = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*plain) != leaf.public_key().public_bytes(*plain):
        raise Refused("provenance.unavailable", "the key is not that of the first certificate")
    if not leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc:
        raise Refused("provenance.unavailable", "the certificate has expired, or is not valid yet")
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    told = {
        "subject": leaf.subject.rfc4514_string(),
        "issuer": leaf.issuer.rfc4514_string(),
        "certificate_sha256": leaf.fingerprint(hashes.SHA256()).hex(),
        "valid_until": leaf.not_valid_after_utc.isoformat(),
    }
    info = c2pa.C2paSignerInfo(algorithm(leaf.public_key()), certificates.encode(), pem, None)
    return c2pa.Signer.from_info(info), told


def builder(c2pa: Any, context: Any, manifest: dict[str, Any], sources: list[dict[str, Any]]) -> Any:
    """What signs: the manifest, and every source with its own history, or by name alone where that cannot be read."""
    made = c2pa.Builder(json.dumps(manifest), context=context)
    for number, source in enumerate(sources):
        try:
            with Path(source["path"]).open("rb") as content:
                made.add_ingredient(source["ingredient"], source["media_type"], content)
        except c2pa.C2paError:
            named = source["ingredient"] | {"format": source["media_type"]}
            known = [*manifest.get("ingredients", []), named]
            return builder(c2pa, context, manifest | {"ingredients": known}, sources[:number] + sources[number + 1 :])
    return made


def sign(c2pa: Any, order: dict[str, Any], made: IO[bytes], media_type: str, into: IO[bytes]) -> dict[str, str]:
    """Sign, and read back what was written."""
    signer, told = open_signer(c2pa, order["certificates"], order["key"])
    context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS), signer)
    builder(c2pa, context, order["manifest"], order.get("sources", [])).sign(media_type, made, into)
    into.seek(0)
    reader = c2pa.Reader(media_type, into, context=c2pa.Context(c2pa.Settings.from_dict(SETTINGS)))
    state = reader.get_validation_state()
    if state not in SOUND:
        raise Refused("provenance.failed", f"what was signed reads as {state}")
    return told


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Confine the process, then sign."""
    unplug()
    import c2pa

    confine(order["limits"])
    made = order.get("made")
    code = "provenance.failed" if made else "provenance.unavailable"
    try:
        if made is None:
            return {"signer": sign(c2pa, order, io.BytesIO(PIXEL), "image/gif", io.BytesIO())}
        with Path(made["path"]).open("rb") as given, Path(made["signed"]).open("w+b") as into:
            return {"signer": sign(c2pa, order, given, made["media_type"], into)}
    except Refused as refused:
        return {"code": refused.code, "detail": str(refused)}
    except (c2pa.C2paError, OSError, MemoryError) as broken:
        return {"code": code, "detail": f"C2PA could not sign ({str(broken)[:200]})"}


if __name__ == "__main__":
    json.dump(main(json.load(sys.stdin)), sys.stdout)
