"""Every TIFF below some folders through the product's reader and through tifffile; prints what became of them.

    python tests/bench/public_tiffs.py [--list] DIR...

For checkouts of public test suites, such as those of libtiff.net, image-tiff, TwelveMonkeys or Pillow. A file that is
read must give exactly the counts of tifffile, or, where tifffile cannot read it, those of libtiff (through OpenCV).
Anything else is "wrong", and the exit code is 1.

One folder is one line of the table; the files refused are counted by reason below it.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import tifffile

from edge.errors import ScanError
from edge.records import Counts
from edge.scans.scan import Limits, read_scan
from edge.system.names import SCAN_SUFFIXES

FINISHED = Limits(expected_zero_px=1 << 32)  # no station writes into a checkout
ENDINGS = (*SCAN_SUFFIXES, ".stk")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="+")
    parser.add_argument("--list", action="store_true", help="also print each file that is read, and each message")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # tifffile's, of damaged files
    refused: Counter[str] = Counter()
    wrong: list[Path] = []
    print("| suite | files | read, equal | refused | wrong |\n|---|---|---|---|---|")
    for folder in options.folders:
        seen: Counter[str] = Counter()
        for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()):
            outcome, said = outcome_of(path)
            seen[outcome] += 1
            if outcome == "wrong":
                wrong.append(path)
            if outcome not in ("read", "wrong"):
                refused[outcome] += 1
            if options.list:
                print(f"{outcome}: {path}: {said}", file=sys.stderr)
        not_read = seen.total() - seen["read"] - seen["wrong"]
        print(f"| {folder.name} | {seen.total()} | {seen['read']} | {not_read} | {seen['wrong']} |")
    print("\n| refused as | files |\n|---|---|")
    for reason, count in refused.most_common():
        print(f"| {reason} | {count} |")
    for path in wrong:
        print(f"wrong: {path}", file=sys.stderr)
    return 1 if wrong else 0


def outcome_of(path: Path) -> tuple[str, str]:
    """`read`, `wrong` or the reason word of the refusal, and what is to be said of it."""
    try:
        counts = read_scan(path.resolve(), file=path.name, limits=FINISHED).counts
    except ScanError as error:
        return error.reason, error.message
    expected, reader = read_by_another(path)
    if expected is None or not np.array_equal(counts, expected):
        return "wrong", f"other counts than {reader}"
    return "read", f"{counts.shape[0]} x {counts.shape[1]} px, as {reader}"


def read_by_another(path: Path) -> tuple[Counts | None, str]:
    """The counts of the first page as tifffile has them, white being 65535; those of libtiff where it has none."""
    with contextlib.suppress(Exception), tifffile.TiffFile(path) as file:
        is_inverted = file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISWHITE
        stored = file.pages[0].asarray()
        return ~stored if is_inverted else stored, "tifffile"
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED), "libtiff"


if __name__ == "__main__":
    os.environ["OPENCV_LOG_LEVEL"] = "OFF"
    sys.exit(main())
