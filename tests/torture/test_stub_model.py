"""The model kind of the torture runs exists for the tests alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge.errors import ModelError
from edge.images.conversion import Bounds, prepare
from edge.images.method import Method
from edge.model.signed_model import read_model
from tests.torture.generator import Generator
from tests.torture.stub import HI_COUNTS, LO_COUNTS, SIZE, StubEngine, expected_p_abnormal, write_stub_model


def test_production_refuses_the_stub_model_even_signed_by_a_trusted_key(tmp_path: Path) -> None:
    model = write_stub_model(tmp_path / "model")
    with pytest.raises(ModelError, match="kind: Extra inputs are not permitted"):
        read_model(model, tmp_path / "key.pub.pem")
    flags = ["--model", str(model), "--trusted-key", str(tmp_path / "key.pub.pem")]
    done = subprocess.run([sys.executable, "-m", "edge.cli", *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert "kind: Extra inputs are not permitted" in done.stderr


def test_the_torture_worker_runs_no_other_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_text("{}")
    config = tmp_path / "edge.toml"
    config.write_text(f'[model]\ndir = "{tmp_path / "model"}"\n')
    command = [sys.executable, "-m", "tests.torture.worker", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "is no torture-stub model" in done.stderr


def test_the_checkers_own_words_for_the_score_agree_with_the_line(tmp_path: Path) -> None:
    generator = Generator(tmp_path, seed=1)
    for _ in range(5):
        counts, _ = generator.scan()
        image = prepare(counts, Method.GLOBAL, Bounds(LO_COUNTS, HI_COUNTS), SIZE)
        assert float(StubEngine().infer(image[None]).p_abnormal[0]) == expected_p_abnormal(counts)
