"""Errors cross processes as what they are."""

import pickle

import pytest

from edge.errors import EdgeError, ScanError, SettingsError
from train.errors import DivergedError


@pytest.mark.parametrize(
    "error",
    [
        SettingsError("no such key", hint="look at the table"),
        ScanError("truncated", "it ends early", hint="copy it again"),
        DivergedError("the loss is nan at step 3", hint="lower the rate"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_worker_process_arrives_with_its_hint(error: EdgeError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert vars(arrived) == vars(error)
    assert str(arrived) == error.message
