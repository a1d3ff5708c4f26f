"""An empty ledger."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.store.ledger import Ledger, open_ledger
from tests.support.samples import STATION


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with open_ledger(path, STATION) as opened:
        yield opened
