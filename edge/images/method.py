"""The names of the conversions. Messages use them too, so nothing is imported here."""

from __future__ import annotations

from enum import StrEnum


class Method(StrEnum):
    """How 16-bit counts become 8-bit images: the four ways of Jensen et al. 2022, and two of their outlook."""

    NAIVE = "naive"
    GLOBAL = "global"
    LOCAL = "local"
    MIXED = "mixed"
    CLAHE = "clahe"
    DHE = "dhe"

    @property
    def channels(self) -> int:
        """Channels of the converted image: 3 for `mixed` (naive, global, local), else 1."""
        return 3 if self is Method.MIXED else 1

    @property
    def gate_channel(self) -> int:
        """Channel that the gate looks at: of `mixed` the one converted with the global bounds."""
        return 1 if self is Method.MIXED else 0

    @property
    def needs_bounds(self) -> bool:
        """Whether the conversion uses bounds found in training."""
        return self not in (Method.NAIVE, Method.LOCAL)
