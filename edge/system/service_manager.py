"""sd_notify(3): tell systemd that the service is ready, alive, or stopping."""

from __future__ import annotations

import logging
import socket

from edge.system.logs import event

log = logging.getLogger(__name__)


class Notifier:
    """Datagrams to the service manager; says nothing when the process is no systemd service."""

    def __init__(self, address: str | None) -> None:
        self._address = address.replace("@", "\0", 1) if address and address.startswith("@") else address

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
                manager.sendto(message.encode(), self._address)
        except OSError as error:
            # A missed beat must not stop the line: systemd restarts the service if too many are missed.
            event(log.warning, "service manager unreachable", error=str(error))
