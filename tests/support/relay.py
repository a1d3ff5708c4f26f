"""A TCP relay that can fall silent or cut its connections, as networks do."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time


class Relay:
    """Listens on `port` and passes everything to `target_port`, both on the loopback address."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._dead: list[tuple[socket.socket, socket.socket]] = []
        self.delay_s = 0.0
        """Time every piece of the stream is held back."""
        self._flows = threading.Event()
        self._flows.set()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing = True
        self._flows.set()
        self._thread.join(10.0)
        self.cut()
        self._listener.close()

    def freeze(self) -> None:
        """Take no more bytes and no more connections, and tell nobody."""
        self._flows.clear()

    def thaw(self) -> None:
        """Flow again; what was open when the relay froze is gone."""
        self.cut()
        self._flows.set()

    def abandon(self) -> None:
        """Leave every connection open and dead; new ones work."""
        with self._lock:
            self._dead += self._pairs
            self._pairs = []

    def cut(self) -> None:
        """Reset every connection."""
        with self._lock:
            pairs, self._pairs, self._dead = self._pairs + self._dead, [], []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):  # closed by its peer meanwhile
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()

    def _run(self) -> None:
        while not self._is_closing:
            self._flows.wait()
            with self._lock:
                pairs = list(self._pairs)
            other = {end: pair[1 - index] for pair in pairs for index, end in enumerate(pair)}
            try:
                ready, _, _ = select.select([self._listener, *other], [], [], 0.02)
            except (OSError, ValueError):  # cut meanwhile
                continue
            for end in ready:
                if end is self._listener:
                    self._accept()
                else:
                    self._pass(end, other[end])

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._target_port))
        except OSError:
            near.close()
            return
        with self._lock:
            self._pairs.append((near, far))

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            data = source.recv(65_536)
            if data and self.delay_s:
                time.sleep(self.delay_s)
            if data and self._flows.is_set():
                target.sendall(data)
        except OSError:
            data = b""
        if not data:
            with self._lock:
                self._pairs = [pair for pair in self._pairs if source not in pair]
            source.close()
            target.close()
