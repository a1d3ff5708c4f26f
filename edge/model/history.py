"""The newest model that has judged here: an older one, however well it is signed, runs only when an operator says so.

A signature says who made a model, not that it is still wanted: who can write the model's folder could bring back
an old one that was replaced for cause. So the state directory remembers when the newest model that ever ran here was
made, by its signed `created_at`. Going back is one command, `edge-worker model accept-older`, and is kept beside it.
"""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from edge.errors import LedgerError, ModelError
from edge.model.signed_model import SignedModel
from edge.system.files import write_whole
from edge.system.logs import event
from edge.system.text import rfc3339

log = logging.getLogger(__name__)

FILE = "newest-model.json"
_GO_BACK = "to run it all the same: edge-worker model accept-older"


class NewestModel(BaseModel):
    """What `newest-model.json` holds; `went_back_at` tells when an operator last chose an older model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_id: str
    sha256: str
    created_at: AwareDatetime
    went_back_at: AwareDatetime | None = None
    digests: dict[str, str]
    """By the id of each model that has run here."""


def refuse_older(model: SignedModel, state: Path) -> None:
    """Raises ModelError if a model made later has run here, or if that cannot be known."""
    newest = newest_model(state)
    if newest is None:
        return
    _refuse_another_of_its_id(model, newest)
    if model.manifest.created_at < newest.created_at:
        raise ModelError(
            f"model {model.model_id} was made at {rfc3339(model.manifest.created_at)}, older than "
            f"{newest.model_id} of {rfc3339(newest.created_at)} that has run here",
            hint=f"put the newer model back; {_GO_BACK}",
        )


def note_model(model: SignedModel, state: Path) -> None:
    """The model is about to judge. Raises LedgerError if that cannot be written down, ModelError as refuse_older."""
    former = newest_model(state)
    if former is None or model.manifest.created_at > former.created_at:
        _write(_newest(model, former), state)


def accept_older(model: SignedModel, state: Path, now: datetime) -> str:
    """Let a verified model run although it is older; what to tell the operator.

    Raises LedgerError, and ModelError where another model of its id has run here.
    Whatever could not be read of the file is replaced: this is the way out of a damaged one, too.
    """
    try:
        newest = newest_model(state)
    except ModelError:
        newest = None
    else:
        if newest is None or newest.created_at <= model.manifest.created_at:
            return f"{model.model_id} is not older than what has run here: nothing to accept"
        _refuse_another_of_its_id(model, newest)
    _write(_newest(model, newest).model_copy(update={"went_back_at": now}), state)
    before = newest.model_id if newest is not None else "unknown"
    event(log.warning, "older model accepted", model=model.model_id, instead_of=before)
    return f"{model.model_id} of {rfc3339(model.manifest.created_at)} may run here, instead of {before}"


def newest_model(state: Path) -> NewestModel | None:
    """None if no model has run here yet. Raises ModelError if the file cannot be read."""
    path = state / FILE
    try:
        return NewestModel.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{path} cannot be read, so a newer model may have run here: {str(error)[:200]}",
            hint=f"check the disk and the file's owner; {_GO_BACK}",
        ) from None


def _refuse_another_of_its_id(model: SignedModel, newest: NewestModel) -> None:
    digest = newest.digests.get(model.model_id, model.digest)
    if digest != model.digest:
        raise ModelError(
            f"model {model.model_id} is not the one of this id that has run here: its digest is {model.digest[:12]}, "
            f"that of the other {digest[:12]}",
            hint="one id names one model for ever: sign it again under a new id (`--model-id`)",
        )


def _newest(model: SignedModel, former: NewestModel | None) -> NewestModel:
    return NewestModel(
        model_id=model.model_id,
        sha256=model.digest,
        created_at=model.manifest.created_at,
        digests={**(former.digests if former is not None else {}), model.model_id: model.digest},
    )


def _write(newest: NewestModel, state: Path) -> None:
    """Whole or not at all, and for good. Readable by all: an administrator may write it, the worker's user reads."""
    try:
        with write_whole(state / FILE, durable=True, mode=0o644) as stream:  # no secret
            stream.write(newest.model_dump_json(indent=1).encode() + b"\n")
    except OSError as error:
        raise LedgerError(f"{state / FILE}: {error.strerror}", hint="check the mount and `state.dir`") from error
