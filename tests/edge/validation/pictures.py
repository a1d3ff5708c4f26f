"""`make pictures`: the README's picture: an electrode judged by the demo model, as the report of a replay shows it."""

from __future__ import annotations

import argparse
import base64
import subprocess
import sys
import tempfile
from pathlib import Path

import tifffile

from tests.support.chromium import Chromium
from train.simulator.simulate import simulate_scan

ROOT = Path(__file__).parents[3]
SEED = 7
KINDS = (None, ["missing-ink"], None, ["bubbles"])
WIDTH_PX = 760


def judge(folder: Path) -> Path:
    """The report of a replay of four simulated scans, two of them abnormal."""
    scans = folder / "scans"
    scans.mkdir()
    lines = ["file,bundle,label"]
    for number, kinds in enumerate(KINDS):
        scan = simulate_scan(SEED, 0, number, abnormal=kinds is not None, kinds=kinds)
        tifffile.imwrite(scans / f"B71_{number:04}.tif", scan.counts, photometric="minisblack")
        lines.append(f"B71_{number:04}.tif,B71,{'normal' if kinds is None else 'abnormal'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "edge.cli", "--model", ROOT / "demo" / "model", "replay", scans]
    subprocess.run([*command, "--labels", folder / "labels.csv", "--out", folder / "replay"], cwd=folder, check=True)
    return folder / "replay" / "report.html"


def main() -> int:
    parser = argparse.ArgumentParser(description="The README's picture of a verdict.")
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR", help="where the picture goes")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name, Chromium(Path(name) / "profile") as browser:
        browser.open(judge(Path(name)), width=WIDTH_PX)
        browser.wait_for("[...document.images].every(image => image.complete)")
        place = browser.evaluate(
            "(() => { const card = [...document.querySelectorAll('.card')].find(card => card.textContent.includes("
            "'abnormal')).getBoundingClientRect();"
            " return [card.x + scrollX, card.y + scrollY, card.width, card.height] })()"
        )
        x, y, width, height = (float(value) for value in place)
        clip = {"x": x - 12, "y": y - 12, "width": width + 24, "height": height + 24, "scale": 1.5}
        shot = browser.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        (out / "verdict.png").write_bytes(base64.b64decode(shot["data"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
