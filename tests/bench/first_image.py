"""Time from asking for a scan's page to its picture on the canvas, in a real browser on this machine.

    .venvs/test/bin/python -m tests.bench.first_image [--runs 9] [--beside WORKTREE]

Scans of 2000 x 1000 px with a detector's noise, each opened once, oldest first, a second after the one before.
`--beside` serves the same evidence with the code of another checkout too and takes turns with it, so that a busy
machine slows both alike.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from edge.desk.store import FILE_NAME, DeskStore
from tests.support.chromium import Chromium
from tests.support.desk import ROOT, log_in, put_account, put_piece, serving, sheet
from tests.support.mosquitto import free_port

SIZE = (2000, 1000)
LOOK_S = 1.0
"""How long the reader looks at each scan before the next one."""
STAGES = """
(() => {
  const loaded = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
  const at = (part) => Math.round(loaded.find((entry) => entry.name.includes(part)).responseEnd);
  return {page: at('/scan/'), script: at('scan.js'), counts: at('/counts'),
    shown: +document.getElementById('picture').dataset.ready};
})()
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print medians and the fastest of each stage in milliseconds since the page was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--beside", type=Path, help="another checkout to measure in turn with this one")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ids = fill(folder, options.runs + 1)
        trees = [ROOT, *([options.beside.resolve()] if options.beside else [])]
        desks = [stack.enter_context(serving(_settings(folder, number), tree)) for number, tree in enumerate(trees)]
        browsers = [stack.enter_context(Chromium(folder / f"profile-{number}")) for number in range(len(trees))]
        for address, browser in zip(desks, browsers, strict=True):
            log_in(browser, address)
        found: list[list[dict[str, int]]] = [[] for _ in trees]
        for run, verdict_id in enumerate(ids):
            for number, (address, browser) in enumerate(zip(desks, browsers, strict=True)):
                browser.visit(f"{address}/scan/{verdict_id}", width=1280)
                browser.wait_for("document.getElementById('picture')?.dataset.ready")
                if run:  # the first one fills caches
                    found[number].append(browser.evaluate(STAGES))
                time.sleep(LOOK_S)
        for tree, runs in zip(trees, found, strict=True):
            print(tree if tree != ROOT else "this checkout")
            for stage in runs[0]:
                values = [run[stage] for run in runs]
                middle = statistics.median(values)
                print(f"  {stage:<7} median {middle:5.0f} ms, fastest {min(values)}, slowest {max(values)}")
    return 0


def fill(folder: Path, count: int) -> list[str]:
    """Evidence and an account; the verdicts' ids, oldest first."""
    (folder / "state" / "requests").mkdir(parents=True)
    (folder / "desk").mkdir()
    with DeskStore(folder / "desk" / FILE_NAME) as store:
        put_account(store, "ann", "admin")
    evidence = folder / "state" / "evidence"
    pieces = [put_piece(evidence, number, counts=sheet(number, *SIZE, flaw=True)) for number in range(1, count + 1)]
    return [piece.record.verdict_id for piece in pieces]


def _settings(folder: Path, number: int) -> Path:
    config = folder / f"edge-{number}.toml"
    config.write_text(f'[state]\ndir = "{folder}/state"\n[desk]\ndir = "{folder}/desk"\nport = {free_port()}\n')
    return config


if __name__ == "__main__":
    sys.exit(main())
