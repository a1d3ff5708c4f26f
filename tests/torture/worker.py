"""The real daemon as a process, with the stub engine, and with what the tests want done to it.

    python -m tests.torture.worker --config FILE [--die-at POINT:N] [--break NAME] [--clock FILE] [--deaf] ...

Without --real-engine it refuses every model but the tests' own; the production program refuses that one. All of
the product that is changed here is changed from outside, in tests/torture/wrap.py: the product has no switch for it.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from pathlib import Path

from edge.system.signals import STOP_SIGNALS

signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # as edge.cli does, before libraries start threads

from edge.daemon.app import run_app  # noqa: E402
from edge.errors import EdgeError  # noqa: E402
from edge.pipeline.loaded_model import LoadedModel, load_model  # noqa: E402
from edge.settings import load_settings, service_environment  # noqa: E402
from edge.system.logs import configure_logging, event  # noqa: E402
from tests.torture import wrap  # noqa: E402
from tests.torture.stub import StubEngine, load_stub_model  # noqa: E402

log = logging.getLogger(__name__)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--die-at", metavar="POINT:N", help="SIGKILL itself at the Nth passing of a point")
    parser.add_argument("--break", dest="broken", choices=sorted(wrap.BREAKAGES), help="a deliberate defect")
    parser.add_argument("--clock", type=Path, help="file with the seconds the wall clock is wrong by")
    parser.add_argument("--deaf", action="store_true", help="no file event reaches the inbox")
    parser.add_argument("--poison", action="store_true", help="decoding a file with the poison marker is a SIGSEGV")
    parser.add_argument("--engine", choices=sorted(wrap.ENGINE_FAULTS), help="what the engine does wrong")
    parser.add_argument("--real-engine", action="store_true", help="the settings' own model and engine, as in service")
    parser.add_argument("--stuck-after-s", type=float, help="instead of edge.daemon.app.STUCK_AFTER_S")
    parser.add_argument("--housekeeping-s", type=float, help="between two sweeps of ledger and inbox")
    parser.add_argument("--slow-load-s", type=float, default=0.0, help="loading the model takes so much longer")
    parser.add_argument("--slow-evidence", type=float, metavar="SECONDS", help="what writing one piece takes")
    parser.add_argument("--health-s", type=float, help="between two health messages")
    parser.add_argument("--slow-moves", type=float, help="seconds between the last look at a judged scan and its move")
    parser.add_argument(
        "--hang",
        type=Path,
        nargs=2,
        help="no look at the folder ends while the first file exists, no read of a scan while the second does",
    )
    parser.add_argument("--newer-schema", action="store_true", help="a program one ledger schema ahead")
    options = parser.parse_args()
    engine = StubEngine()
    if options.die_at:
        point, _, count = options.die_at.partition(":")
        wrap.die_at(point, int(count))
    if options.broken:
        wrap.BREAKAGES[options.broken]()
    if options.clock:
        wrap.shift_clock(options.clock)
    if options.deaf:
        wrap.deafen()
    if options.poison:
        wrap.poison(options.config.parent)
    if options.engine:
        wrap.ENGINE_FAULTS[options.engine](engine)
    if options.slow_evidence:
        wrap.slow_evidence(options.slow_evidence)
    if options.newer_schema:
        wrap.advance_schema()
    if options.slow_moves is not None:
        wrap.slow_moves(options.slow_moves)
    if options.hang:
        wrap.hang(*options.hang)
    wrap.hurry(options.stuck_after_s, options.housekeeping_s, options.health_s)
    try:
        settings = load_settings(options.config)
        configure_logging(settings.log.level, settings.log.format)

        def load() -> LoadedModel:
            event(log.info, "loading")
            time.sleep(options.slow_load_s)
            if options.real_engine:
                return load_model(settings)
            return load_stub_model(settings.model.dir, engine)

        return run_app(settings, service_environment(), load)
    except EdgeError as error:  # as edge.cli does
        print(f"edge-worker: {error.message}\n  try: {error.hint}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
