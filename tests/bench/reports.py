"""How long `report`, `show` and `export` take on a ledger of a million verdicts, in processor time.

    .venvs/test/bin/python -m tests.bench.reports --out build/reports [--verdicts 1000000]

The ledger is made once (about 2 GB) and used again; delete the folder to be rid of it. One verdict every 2.5 s, one in
a hundred not `normal`, no evidence: pictures cost their own time, about 40 ms each at 2000 x 1000.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edge.records import Outcome
from edge.store.ledger import Entry, open_ledger
from tests.support.samples import STATION, sample_entry

EVERY = timedelta(seconds=2.5)
TO_LOOK_AT = 100
"""One verdict of so many is not normal."""
OUTCOMES = (Outcome.REVIEW, Outcome.ABNORMAL)
END = datetime(2026, 3, 1, 14, 0, tzinfo=UTC)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the ledger where it is missing, and print a table of times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/reports"))
    parser.add_argument("--verdicts", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    make_ledger(options.out, options.verdicts)
    begin = END - options.verdicts * EVERY
    shift = (END - timedelta(hours=8)).isoformat()
    for words in (
        ("show", f"{options.verdicts // 2:04d}"),
        ("report", "--since", shift, "--out", "-"),
        ("report", "--since", begin.isoformat(), "--out", "-"),
        ("export", "--since", shift),
        ("export", "--since", shift, "--format", "jsonl"),
        ("export", "--since", begin.isoformat()),
        ("export", "--since", begin.isoformat(), "--format", "jsonl"),
    ):
        cpu_s, wall_s, size_bytes = run(options.out, words)
        print(
            f"{cpu_s:6.2f} s of processor, {wall_s:6.2f} s, {size_bytes / 1e6:8.1f} MB: {' '.join(words)}", flush=True
        )
    return 0


def make_ledger(root: Path, count: int) -> None:
    """A station whose ledger holds `count` verdicts, the newest decided just before END."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "scans").mkdir(exist_ok=True)
    (root / "edge.toml").write_text(
        f'station = "{STATION}"\n[folder]\npath = "{root / "scans"}"\n[state]\ndir = "{root / "state"}"\n'
    )
    with open_ledger(root / "state" / "ledger.sqlite", STATION) as ledger:
        for first in range(ledger.next_seq(), count + 1, 20_000):
            ledger.commit(list(_entries(range(first, min(first + 20_000, count + 1)), count)), END)
            print(f"{first:>9} of {count}", end="\r", file=sys.stderr)
        ledger.mark_sent(range(1, count + 1), END)


def _entries(numbers: range, count: int) -> Iterator[Entry]:
    for number in numbers:
        decided_at = END - (count + 1 - number) * EVERY
        entry = sample_entry(number, decided_at=decided_at)
        assert entry.verdict is not None
        outcome = OUTCOMES[number // TO_LOOK_AT % 2] if number % TO_LOOK_AT == 0 else Outcome.NORMAL
        times = entry.verdict.times.model_copy(
            update={"first_seen_at": decided_at - timedelta(milliseconds=300 + number % 997)}
        )
        verdict = entry.verdict.model_copy(update={"outcome": outcome, "times": times})
        yield Entry(entry.stamp, entry.scan, verdict)


def run(root: Path, words: Sequence[str]) -> tuple[float, float, int]:
    """Processor time, time and bytes written of one command."""
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    out = root / "answer"
    with out.open("wb") as stream:
        subprocess.run(
            [sys.executable, "-m", "edge.cli", *words, "--config", str(root / "edge.toml")], stdout=stream, check=True
        )
    after, size_bytes = resource.getrusage(resource.RUSAGE_CHILDREN), out.stat().st_size
    out.unlink()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, time.monotonic() - began_s, size_bytes


if __name__ == "__main__":
    sys.exit(main())
