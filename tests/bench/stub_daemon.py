"""The daemon with networks that cost nothing: what is left is reading, hashing, converting, storing, publishing."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from edge.daemon.app import run_app
from edge.engines import Batch, EngineOutput, EngineSpec
from edge.pipeline.loaded_model import load_model
from edge.settings import load_settings, service_environment
from edge.system.logs import configure_logging


class StubEngine:
    """Calls everything normal at once."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = dataclasses.replace(spec, name="stub", max_batch=8)

    def infer(self, images: Batch) -> EngineOutput:
        zeros = np.zeros(len(images), np.float32)
        return EngineOutput(zeros, zeros.copy(), zeros.copy(), np.zeros((len(images), 2, 2), np.float32))

    def close(self) -> None:
        """Nothing is open."""


def main(config: Path) -> int:
    settings = load_settings(config)
    configure_logging(settings.log.level, settings.log.format)
    model = load_model(settings)
    model.engine.close()
    stub = StubEngine(model.engine.spec)
    return run_app(settings, service_environment(), lambda: dataclasses.replace(model, engine=stub))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
