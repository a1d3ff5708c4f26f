"""TLS towards the broker: at least 1.2, certificate and host name always verified."""

from __future__ import annotations

import ssl
from pathlib import Path

from edge.settings import BrokerSettings


def tls_context(settings: BrokerSettings) -> ssl.SSLContext:
    """Read anew for every connection, so that renewed certificates need no restart.

    Raises OSError naming the file that is missing, or ssl.SSLError for one that is no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _ClosingSocket
    if settings.ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(_existing(settings.ca_file))
    if settings.cert_file is not None and settings.key_file is not None:
        context.load_cert_chain(_existing(settings.cert_file), _existing(settings.key_file))
    return context


class _ClosingSocket(ssl.SSLSocket):
    """Closes when the handshake fails; paho would leave it to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _existing(path: Path) -> Path:
    """ssl does not name the file it misses; opening it first raises an OSError that does."""
    path.open("rb").close()
    return path
