"""A real MQTT broker for the demo, on a free port of this machine: mosquitto, or one in pure Python."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from children import child, tail

from edge.errors import EdgeError

Choice = Literal["auto", "mosquitto", "embedded"]

HOST = "127.0.0.1"
START_TIMEOUT_S = 20.0
EMBEDDED_COSTS = (
    "This broker is embedded (amqtt), and that costs something: it speaks MQTT 3.1.1 only, where a broker "
    "acknowledges even what it refuses, and it keeps nothing on disk or for a subscriber that is away. "
    "Good enough to look at; a line needs MQTT 5."
)
INSTALLERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "apt-get": (("update", "-qq"), ("install", "-y", "-qq", "--no-install-recommends", "mosquitto")),
    "dnf": (("install", "-y", "-q", "mosquitto"),),
    "apk": (("add", "-q", "mosquitto"),),
}
INSTALL_TIMEOUT_S = 60.0  # each command: a demo that waits longer is worse than one with the embedded broker

MOSQUITTO_CONF = """\
# This machine only, and a port of its own: a broker that runs here already is left alone.
listener {port} {host}
# No other machine can reach it. A plant's broker asks for certificates.
allow_anonymous true
{user}
# The MES must find what was sent while it was away, also after a restart of the broker, so the broker keeps it
# on disk and saves after every change: the default is every half hour.
persistence true
persistence_location {directory}/
autosave_on_changes true
autosave_interval 1
# Mosquitto keeps 1000 messages for a subscriber that is away and drops the rest. A night shift makes more.
max_queued_messages 100000
log_dest stderr
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that accepts connections. `costs` says what it lacks, None if nothing."""

    name: str
    port: int
    protocol: Literal["5", "3.1.1"]
    costs: str | None = None


def start_broker(choice: Choice, out: Path, stack: ExitStack, say: Callable[[str], None]) -> Broker:
    """Start the broker that was asked for, or the best there is; it stops with `stack`.

    `say` is told what takes long. Raises EdgeError when no broker can be had or it does not come up.
    """
    out.mkdir()
    port, log = free_port(), out / "broker.log"
    program = None if choice == "embedded" else find_mosquitto()
    if program is None and choice == "auto":
        program = install_mosquitto(out / "install.log", say)
    if program is not None:
        broker, command = Broker("mosquitto", port, "5"), _mosquitto_command(program, port, out)
    elif choice == "mosquitto":
        raise EdgeError("mosquitto is not installed", hint="install it, or leave --broker out for the embedded broker")
    elif importlib.util.find_spec("amqtt") is None:
        raise EdgeError(
            "neither mosquitto nor the embedded broker is installed", hint="install mosquitto, or pip install '.[demo]'"
        )
    else:
        broker, command = Broker("embedded (amqtt)", port, "3.1.1", EMBEDDED_COSTS), _amqtt_command(port, out)
    process = stack.enter_context(child(command, log, grace_s=5))
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)  # a foreign program does not tell when it listens
        else:
            return broker
    raise EdgeError(
        f"the broker {broker.name} did not come up on port {port}; its last words:\n{tail(log)}",
        hint="try the other one: --broker embedded or --broker mosquitto",
    )


def find_mosquitto() -> str | None:
    """The program, also where only root's search path leads."""
    places = [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/opt/homebrew/sbin"]
    return shutil.which("mosquitto", path=os.pathsep.join(places))


def install_mosquitto(log: Path, say: Callable[[str], None]) -> str | None:
    """Ask the system's package manager, if this is root; None when there is still no mosquitto after it."""
    manager = next((name for name in INSTALLERS if shutil.which(name)), None)
    if os.geteuid() != 0 or manager is None:
        return None
    say(f"installing mosquitto with {manager}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with log.open("wb") as output:
        for arguments in INSTALLERS[manager]:
            try:
                subprocess.run(  # noqa: S603 - a table of constants
                    [manager, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    timeout=INSTALL_TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                break
    return find_mosquitto()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _mosquitto_command(program: str, port: int, out: Path) -> list[str]:
    # Started by root, mosquitto becomes the user `mosquitto`, who may not write into this directory.
    user = "user root" if os.geteuid() == 0 else "# Runs as the user who started the demo."
    conf = out / "mosquitto.conf"
    conf.write_text(MOSQUITTO_CONF.format(port=port, host=HOST, user=user, directory=out.resolve()), "utf-8")
    return [program, "-c", str(conf)]


def _amqtt_command(port: int, out: Path) -> list[str]:
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    settings = {"listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}}, "plugins": plugins}
    conf = out / "amqtt.yaml"
    conf.write_text(json.dumps(settings, indent=2), "utf-8")  # JSON is YAML
    return [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(conf)]
