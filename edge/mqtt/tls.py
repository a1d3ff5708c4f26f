"""TLS towards the broker: what the settings name, read anew for every connection."""

from __future__ import annotations

import ssl
from pathlib import Path

from edge.settings import BrokerSettings
from edge.system.files import read_named

MAX_FILE_BYTES = 8 << 20
"""Largest file of certificates: a system's whole collection has a fraction of it."""


class NotUsable(ValueError):
    """A file of certificates that holds something else."""


def tls_context(settings: BrokerSettings) -> ssl.SSLContext:
    """Read anew for every connection, so that renewed certificates need no restart.

    Raises OSError naming the file that is missing, or NotUsable naming the setting of one that holds something else.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _ClosingSocket
    if settings.ca_file is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(_existing(settings.ca_file))
        except ssl.SSLError as error:
            raise NotUsable(
                f"`broker.ca_file` {settings.ca_file} holds no certificate in PEM: {_openssl(error)}"
            ) from error
    if settings.cert_file is not None and settings.key_file is not None:
        _load_own(context, _existing(settings.cert_file), _existing(settings.key_file))
    return context


def _load_own(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    """The client certificate and its key. Never asks on a terminal, as OpenSSL does for the passphrase of a key."""
    is_encrypted = False

    def passphrase() -> str:
        nonlocal is_encrypted
        is_encrypted = True
        return " "  # none at all is an error of its own

    try:
        context.load_cert_chain(cert_file, key_file, passphrase)
    except ssl.SSLError as error:
        if is_encrypted:
            raise NotUsable(f"`broker.key_file` {key_file} is encrypted with a passphrase") from error
        raise NotUsable(
            f"`broker.cert_file` {cert_file} and `broker.key_file` {key_file} are no certificate with its key: "
            f"{_openssl(error)}"
        ) from error


def _openssl(error: ssl.SSLError) -> str:
    return (error.reason or "not PEM").replace("_", " ").lower()


class _ClosingSocket(ssl.SSLSocket):
    """Closes when the handshake fails; paho would leave it to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _existing(path: Path) -> Path:
    """ssl does not name the file it misses, and waits for a pipe; reading it first raises an OSError that names it."""
    read_named(path, MAX_FILE_BYTES)
    return path
