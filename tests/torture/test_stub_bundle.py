"""The bundle kind of the torture runs exists for the tests alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge.errors import BundleError
from edge.images.conversion import Bounds, prepare
from edge.images.method import Method
from edge.model.bundle import open_bundle
from tests.torture.generator import Generator
from tests.torture.stub import HI_COUNTS, LO_COUNTS, SIZE, StubEngine, expected_p_abnormal, write_stub_bundle


def test_production_refuses_the_stub_bundle_even_signed_by_a_trusted_key(tmp_path: Path) -> None:
    bundle = write_stub_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match="kind: Extra inputs are not permitted"):
        open_bundle(bundle, tmp_path / "key.pub.pem")
    flags = ["--bundle", str(bundle), "--trusted-key", str(tmp_path / "key.pub.pem")]
    done = subprocess.run([sys.executable, "-m", "edge.cli", *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert "kind: Extra inputs are not permitted" in done.stderr


def test_the_torture_worker_runs_no_other_bundle(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    config = tmp_path / "edge.toml"
    config.write_text(f'[model]\nbundle = "{tmp_path / "bundle"}"\n')
    command = [sys.executable, "-m", "tests.torture.worker", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "is no torture-stub bundle" in done.stderr


def test_the_checkers_own_words_for_the_score_agree_with_the_line(tmp_path: Path) -> None:
    generator = Generator(tmp_path, seed=1)
    for _ in range(5):
        counts, _ = generator.scan()
        image = prepare(counts, Method.GLOBAL, Bounds(LO_COUNTS, HI_COUNTS), SIZE)
        assert float(StubEngine().infer(image[None]).p_abnormal[0]) == expected_p_abnormal(counts)
