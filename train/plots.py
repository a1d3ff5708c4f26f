"""What all plots share: their lines, and how they become files. Colour never carries a meaning alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from train.files import write_whole

STYLES = (("#1f4e79", "-"), ("#b3541e", "--"), ("#3c7a3c", "-."), ("#7a3c6e", ":"), ("#555555", "-"), ("#8a7a1e", "--"))
FIXED: Final[dict[Any, Any]] = {"svg.hashsalt": "electrode-line", "svg.fonttype": "none"}
"""Settings of matplotlib under which equal figures give equal files."""


def save(figure: Figure, path: Path) -> None:
    """Write PATH.png and PATH.svg."""
    path = path.with_suffix("") if path.suffix in (".png", ".svg") else path  # other points belong to the name
    with mpl.rc_context(FIXED):
        with write_whole(path.with_name(f"{path.name}.png")) as stream:
            figure.savefig(stream, format="png", dpi=150)
        with write_whole(path.with_name(f"{path.name}.svg")) as stream:
            figure.savefig(stream, format="svg", metadata={"Date": None})
