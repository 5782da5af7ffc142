"""Certificates for a federated run on this machine, created for one run and stored in its folder."""

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOST = "127.0.0.1"
LIFE = datetime.timedelta(days=365)


@dataclass(frozen=True)
class Certificates:
    """Files of one run: the certificate authority of its processes, and the server's certificate and key."""

    authority: Path
    certificate: Path
    key: Path

    @property
    def served(self) -> list[str]:
        """Options of a Flower process that listens on a port."""
        files = {"--ssl-certfile": self.certificate, "--ssl-keyfile": self.key, "--ssl-ca-certfile": self.authority}
        return [word for option, file in files.items() for word in (option, str(file))]


def make(folder: Path, address: str = HOST) -> Certificates:
    """Create a certificate for an IP address, in files that only the owner can read; the authority's key is not stored.

    Args:
        folder: of the files.
        address: of the server, by default this machine's own.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    signing, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, subject = _name("lit-fa authority"), _name("lit-fa")
    authority = _builder(issuer, issuer, signing).add_extension(x509.BasicConstraints(True, 0), critical=True)
    usage = {name: False for name in _USAGES} | {"key_cert_sign": True, "crl_sign": True}
    authority = authority.add_extension(x509.KeyUsage(**usage), critical=True)
    issued = _builder(issuer, subject, key).add_extension(x509.BasicConstraints(False, None), critical=True)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address)), x509.DNSName("localhost")])
    issued = issued.add_extension(names, critical=False)
    issued = issued.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    identifier = x509.SubjectKeyIdentifier.from_public_key(signing.public_key())
    authority = authority.add_extension(identifier, critical=False)
    by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    issued = issued.add_extension(by, critical=False)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    return Certificates(
        _written(folder / "authority.pem", authority.sign(signing, hashes.SHA256()).public_bytes(pem)),
        _written(folder / "server.pem", issued.sign(signing, hashes.SHA256()).public_bytes(pem)),
        _written(folder / "server.key", private),
    )


_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder().issuer_name(issuer).subject_name(subject).public_key(key.public_key())
    built = built.serial_number(x509.random_serial_number())
    return built.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + LIFE)


def _written(path: Path, content: bytes) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    return path
