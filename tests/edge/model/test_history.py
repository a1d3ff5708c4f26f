"""An older model runs only when an operator says so."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge.errors import ModelError
from edge.model.history import FILE, accept_older, newest_model, note_model, refuse_older
from edge.model.signed_model import SignedModel, read_model
from tests.support import signed_models

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def made_in(year: int, root: Path, model_id: str | None = None) -> SignedModel:
    folder = signed_models.make_signed_model(
        root / str(year),
        edit=lambda content: content.update(created_at=f"{year}-01-01T00:00:00Z", model_id=model_id or f"model-{year}"),
    )
    return read_model(folder, signed_models.write_public_key(root / "key.pem"))


def test_where_nothing_has_run_any_model_may(state: Path, tmp_path: Path) -> None:
    refuse_older(made_in(2020, tmp_path), state)
    refuse_older(made_in(2021, tmp_path), tmp_path / "no state yet")


def test_an_older_model_is_refused_once_a_newer_one_has_run(state: Path, tmp_path: Path) -> None:
    older, newer = made_in(2024, tmp_path), made_in(2025, tmp_path)
    for model in (older, newer):
        refuse_older(model, state)
        note_model(model, state)
    with pytest.raises(ModelError, match=r"model-2024 .* older than model-2025") as caught:
        refuse_older(older, state)
    assert "model accept-older" in caught.value.hint
    refuse_older(newer, state)


def test_what_did_not_run_is_not_remembered(state: Path, tmp_path: Path) -> None:
    refuse_older(made_in(2025, tmp_path), state)
    refuse_older(made_in(2024, tmp_path), state)


def test_going_back_is_remembered_and_ends_with_the_next_newer_model(state: Path, tmp_path: Path) -> None:
    oldest, older, newer = (made_in(year, tmp_path) for year in (2023, 2024, 2025))
    note_model(newer, state)
    assert "model-2024" in accept_older(older, state, NOW)
    kept = newest_model(state)
    assert kept is not None and (kept.model_id, kept.went_back_at) == ("model-2024", NOW)
    refuse_older(older, state)
    with pytest.raises(ModelError):
        refuse_older(oldest, state)
    note_model(newer, state)
    with pytest.raises(ModelError):
        refuse_older(older, state)


def test_accepting_what_is_not_older_changes_nothing(state: Path, tmp_path: Path) -> None:
    model = made_in(2024, tmp_path)
    assert "nothing to accept" in accept_older(model, state, NOW)
    assert list(state.iterdir()) == []
    note_model(model, state)
    before = (state / FILE).read_bytes()
    assert "nothing to accept" in accept_older(model, state, NOW)
    assert (state / FILE).read_bytes() == before


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"model_id": "x", "sha256": "y", "created_at": "yesterday"}'])
def test_a_damaged_memory_lets_nothing_run_until_an_operator_accepts(
    state: Path, tmp_path: Path, damage: bytes
) -> None:
    model = made_in(2024, tmp_path)
    (state / FILE).write_bytes(damage)
    with pytest.raises(ModelError, match="cannot be read"):
        refuse_older(model, state)
    accept_older(model, state, NOW)
    refuse_older(model, state)


def test_an_id_names_one_model_for_ever_whatever_has_run_in_between(state: Path, tmp_path: Path) -> None:
    first, between, second = (made_in(2020 + at, tmp_path, f"cathode-{at % 2}") for at in range(3))
    for model in (first, between):
        refuse_older(model, state)
        note_model(model, state)
    with pytest.raises(ModelError, match="cathode-0 is not the one of this id"):
        refuse_older(second, state)


def test_an_operator_cannot_go_back_to_another_model_of_an_id_that_has_run(state: Path, tmp_path: Path) -> None:
    older, newer = made_in(2024, tmp_path, "cathode"), made_in(2025, tmp_path, "cathode")
    note_model(newer, state)
    with pytest.raises(ModelError, match="cathode is not the one of this id"):
        accept_older(older, state, NOW)
