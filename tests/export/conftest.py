"""Torch takes many seconds to export a network: in these tests the same network is exported once."""

from __future__ import annotations

import fcntl
import hashlib
import io
from collections.abc import Callable, Iterator

import onnx
import pytest
import torch
from torch import nn

from edge.records import Size
from export import graphs

Export = Callable[[nn.Module, int, Size, tuple[str, ...]], onnx.ModelProto]


@pytest.fixture(scope="session", autouse=True)
def torchs_export(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Export]:
    """The product's own way to a graph, which always exports."""
    original = graphs._export
    base = tmp_path_factory.getbasetemp()
    # A worker of `make test` has a folder of its own in one of the run.
    folder = (base.parent if base.name.startswith("popen-gw") else base) / "exported"
    folder.mkdir(exist_ok=True)

    def kept(graph: nn.Module, channels: int, size: Size, outputs: tuple[str, ...]) -> onnx.ModelProto:
        path = folder / f"{_digest(graph, channels, size, outputs)}.onnx"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                draft = path.with_suffix(".draft")
                draft.write_bytes(original(graph, channels, size, outputs).SerializeToString())
                draft.rename(path)
        return onnx.load_from_string(path.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "_export", kept)
        yield original


def _digest(graph: nn.Module, *more: object) -> str:
    """SHA-256 over the whole module: structure, weights and plain attributes."""
    data = io.BytesIO()
    torch.save(graph, data)
    digest = hashlib.sha256(data.getbuffer())
    digest.update(repr(more).encode())
    return digest.hexdigest()
