"""
To whom the probe of ``volumes`` sends its token: to nobody who only has some certificate of the cluster's authority.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from conformance._suite import evidence
from conformance._suite.workload import pack
from tests.powershell import ROOT
from tests.test_bootstrap import SHORT, needs_an_engine, run
from tests.test_bootstrap import encoded as command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
ANSWER = b'HTTP/1.0 201 Created\r\n\r\n{"status":{"userInfo":{"username":"it","extra":{}}}}'
PEM = serialization.Encoding.PEM


class Authority:
    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._signed("authority", self._key, x509.BasicConstraints(ca=True, path_length=None))

    def _signed(self, name: str, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def leaf(self, path: Path, host: str, usage: ObjectIdentifier) -> Path:
        """
        A certificate and its key in one file.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        named = x509.SubjectAlternativeName([x509.DNSName(host)])
        made = self._signed("leaf", key, named, x509.ExtendedKeyUsage([usage]))
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(made.public_bytes(PEM) + private)
        return path


@contextlib.contextmanager
def listening(certificate: Path) -> Iterator[tuple[int, list[bytes]]]:
    """
    A server that answers everything as a review, its port, and all that it was sent.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    got: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                got.append(tls.recv(65536))
                tls.sendall(ANSWER)
                tls.unwrap()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], got
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.mark.sockets
@needs_an_engine
@pytest.mark.parametrize(
    ("host", "usage", "own", "trusted"),
    [
        ("kubernetes.default.svc", SERVER, True, True),
        ("kubernetes.default.svc", CLIENT, True, False),
        ("another.default.svc", SERVER, True, False),
        ("kubernetes.default.svc", SERVER, False, False),
    ],
)
def test_a_token_is_sent_to_an_api_server_alone(
    tmp_path: Path, host: str, usage: ObjectIdentifier, own: bool, trusted: bool
) -> None:
    authority = Authority()
    account = tmp_path / r"var\run\secrets\kubernetes.io\serviceaccount"
    account.mkdir()
    (account / "ca.crt").write_bytes(authority.certificate.public_bytes(PEM))
    (account / "token").write_text("head.claims.signature")
    leaf = (authority if own else Authority()).leaf(tmp_path / "leaf.pem", host, usage)

    with listening(leaf) as (port, got):
        _, output, _ = run(
            command(SHORT),
            PROBE=pack((ROOT / "workloads" / "volumes" / "probe.ps1").read_bytes()),
            ROLE="read",
            NONCE="0",
            CONTAINER_SANDBOX_MOUNT_POINT=str(tmp_path),
            KUBERNETES_SERVICE_HOST="127.0.0.1",
            KUBERNETES_SERVICE_PORT=str(port),
            API_HOST="",
        )
    review: dict[str, Any] = evidence.parse_output(output)["review"]
    sent = b"".join(got)
    assert (b"Bearer head.claims.signature" in sent) == trusted, review
    assert (review.get("code"), sent == b"") == ((201, False) if trusted else (None, True)), review
