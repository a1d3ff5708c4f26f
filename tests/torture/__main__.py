"""The torture harness: every fault of the list against the real daemon, one row each.

python -m tests.torture --column short                    as `make torture`
python -m tests.torture --column long --resume            as `make torture-full`; goes on where it was cut off
python -m tests.torture --column long --resume --rows R6   one row of it, for instance beside others; same results
python -m tests.torture --column short --rows R1,R9 --seed 20261    replays what failed
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from tests.support.mosquitto import PROGRAM
from tests.torture.procedures import PROCEDURES
from tests.torture.report import write_report
from tests.torture.results import as_table, longest_rows, print_row, read_rows, summary
from tests.torture.trial import Procedure, run_procedure

ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.partition("\n")[0])
    parser.add_argument("--column", choices=["short", "long"], default="short")
    parser.add_argument("--rows", help="only these, such as R1,R9")
    parser.add_argument("--seed", type=int, help="default: today's date")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "torture")
    parser.add_argument("--jobs", type=int, default=2, help="rows at a time; those whose bars are rates run alone")
    parser.add_argument("--resume", action="store_true", help="keep the rows of --out that passed or were skipped")
    parser.add_argument("--allow-late", action="store_true", help="missed bars of time alone do not fail the run")
    parser.add_argument(
        "--report", type=Path, help="write the report there, too (Markdown, plots): each row as it ran at its longest"
    )
    options = parser.parse_args()
    if PROGRAM is None:
        print("the mosquitto program is not installed: nothing to torture", file=sys.stderr)
        return 69
    seed = options.seed if options.seed is not None else int(datetime.now(UTC).strftime("%Y%m%d"))
    is_long = options.column == "long"
    wanted = [procedure.id for procedure in PROCEDURES if is_long or not procedure.is_long_only]
    wanted = options.rows.split(",") if options.rows else wanted
    if unknown := set(wanted) - {procedure.id for procedure in PROCEDURES}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    logging.getLogger("edge").addHandler(logging.NullHandler())  # rows that open a ledger here judge by what is in it
    folder = options.out.resolve() / options.column
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()

    def run(procedure: Procedure) -> None:
        kept = folder / "rows" / f"{procedure.id}.json"
        if options.resume and kept.exists() and json.loads(kept.read_text())["verdict"] in ("pass", "skipped"):
            return
        row = run_procedure(procedure, folder / "work", seed, is_long=is_long)
        kept.write_text(json.dumps(row.as_json(), indent=1) + "\n")
        print_row(row)

    chosen = [procedure for procedure in PROCEDURES if procedure.id in wanted]
    side_by_side = [procedure for procedure in chosen if not procedure.is_timed]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, sorted(side_by_side, key=lambda procedure: not procedure.is_lengthy)))
    for procedure in chosen:
        if procedure.is_timed:
            run(procedure)
    rows = [row for row in read_rows(folder / "rows", PROCEDURES) if row.id in wanted]
    as_table(rows)
    content = summary(rows, time.monotonic() - began_s)
    (folder / "torture.json").write_text(json.dumps(content, indent=1) + "\n")
    if options.report is not None:
        write_report(longest_rows(options.out, PROCEDURES), options.report)
    counts = ", ".join(f"{content[verdict]} {verdict}" for verdict in ("passed", "late", "failed", "skipped"))
    print(f"{counts}: {folder}/torture.json")
    for row in rows:
        if row.verdict in ("fail", "late"):
            print(f"replay: python -m tests.torture --column {row.column} --rows {row.id} --seed {row.seed}")
    return 1 if content["failed"] or (content["late"] and not options.allow_late) else 0


if __name__ == "__main__":
    sys.exit(main())
