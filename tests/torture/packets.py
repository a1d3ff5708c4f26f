"""Packets lost below TCP, by the kernel's packet filter: on the loopback device, for one port alone."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator


def why_none_can_be_lost() -> str | None:
    """None where `lossy` works: it needs nft and the right to set rules."""
    if shutil.which("nft") is None:
        return "nft is not installed"
    done = _nft("table inet torture_try {}; delete table inet torture_try")
    return None if done.returncode == 0 else f"the packet filter cannot be set: {done.stderr.partition(chr(10))[0]}"


@contextlib.contextmanager
def lossy(port: int, percent: int) -> Iterator[None]:
    """Every packet to or from `port` is lost with that chance."""
    table, chance = f"torture_{port}", f"numgen random mod 100 < {percent} drop"
    rules = f"type filter hook input priority 0; tcp dport {port} {chance}; tcp sport {port} {chance};"
    _nft(f"table inet {table} {{ chain input {{ {rules} }}; }}").check_returncode()
    try:
        yield
    finally:
        _nft(f"delete table inet {table}").check_returncode()


def _nft(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nft", "-f", "-"], input=command, capture_output=True, text=True)
