"""Headless Chromium over its debugging pipe: enough to open a page, look at it and hear its complaints."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]
START = """
import fcntl, os, sys
commands, answers = (fcntl.fcntl(int(pipe), fcntl.F_DUPFD, 10) for pipe in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from descriptor 3 and answers on 4."""

Event = dict[str, Any]


class Chromium:
    """One page in a browser of its own; a context manager, so that the browser ends with the test."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM is not None
        self._profile = profile
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        pipes = [str(commands), str(answers)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, *pipes, PROGRAM, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._unread = b""
        self._last_id = 0
        self._session: str | None = None
        self.events: list[Event] = []
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser, and remove the folder that it left under /tmp for the socket of its profile."""
        self._process.kill()
        self._process.wait()
        socket = self._profile / "SingletonSocket"
        if socket.is_symlink():
            shutil.rmtree(socket.readlink().parent, ignore_errors=True)
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, **params: Any) -> Any:
        """One command and its answer; events that come in between are kept."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path, *, width: int, scheme: str = "light", media: str = "") -> None:
        """Load a file at this width in CSS pixels, in the light or dark scheme, on screen or in print."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def visit(self, url: str, *, width: int, height: int = 900, scheme: str = "light") -> None:
        """Load an address in a window of this size in CSS pixels."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media="", features=features)
        self.evaluate("void (window.isOldPage = true)")  # a late event of the page before would look like this one's
        self.call("Page.navigate", url=url)
        self.wait_for("!window.isOldPage && document.readyState === 'complete'")

    def wait_for(self, expression: str, timeout_s: float = 20.0) -> None:
        """Until a JavaScript expression is true, also across pages."""
        end_s = time.monotonic() + timeout_s
        while not self._truth(expression):
            assert time.monotonic() < end_s, f"never true: {expression}"
            time.sleep(0.02)

    def press(self, key: str, *, shift: bool = False, code: str = "") -> None:
        """A key, down and up. `code`: its place on the keyboard."""
        held = {"modifiers": 8 if shift else 0, "code": code}
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **held, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **held)

    def move(self, x: float, y: float, *, is_down: bool = False) -> None:
        """The mouse to a place of the page."""
        button = {"button": "left", "buttons": 1} if is_down else {}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, **button)

    def drag(self, x: float, y: float, to_x: float, to_y: float, steps: int = 8) -> None:
        """Press the left button, move, let go."""
        self.move(x, y)
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", buttons=1, clickCount=1)
        for step in range(1, steps + 1):
            share = step / steps
            self.move(x + (to_x - x) * share, y + (to_y - y) * share, is_down=True)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=to_x, y=to_y, button="left", clickCount=1)

    def screenshot(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def _truth(self, expression: str) -> bool:
        try:
            answer = self.call("Runtime.evaluate", expression=f"!!({expression})", returnByValue=True)
        except AssertionError as error:
            # The page that was asked gave way to the next one: not true yet, and the next one is asked.
            if "navigated" not in str(error):
                raise
            return False
        return answer["result"].get("value") is True

    def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        """Everything the page asked for, apart from what it holds itself."""
        urls = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self) -> list[Event]:
        """Console output, security policy violations, script errors and dialogs."""
        kinds = {
            "Log.entryAdded",
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Page.javascriptDialogOpening",
        }
        return [event for event in self.events if event["method"] in kinds]

    def _receive(self) -> Event:
        while b"\0" not in self._unread:
            data = os.read(self._answers, 1 << 20)
            assert data, "the browser ended"
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        event: Event = json.loads(message)
        return event
