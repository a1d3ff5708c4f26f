"""What all plots share: their lines, and how they become files. Colour never carries a meaning alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

STYLES = (("#1f4e79", "-"), ("#b3541e", "--"), ("#3c7a3c", "-."), ("#7a3c6e", ":"), ("#555555", "-"), ("#8a7a1e", "--"))
FIXED: Final[dict[Any, Any]] = {"svg.hashsalt": "electrode-line", "svg.fonttype": "none"}
"""Settings of matplotlib under which equal figures give equal files."""


def save(figure: Figure, path: Path) -> None:
    """Write PATH.png and PATH.svg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.with_suffix("") if path.suffix in (".png", ".svg") else path  # other points belong to the name
    with mpl.rc_context(FIXED):
        figure.savefig(f"{path}.png", dpi=150)
        figure.savefig(f"{path}.svg", metadata={"Date": None})
