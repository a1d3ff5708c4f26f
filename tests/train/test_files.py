"""Files that training writes."""

import errno
import io
import os
from pathlib import Path

import pytest
import torch

from train.files import write_whole


class FullDisk(io.BytesIO):
    """Takes two megabytes."""

    def write(self, content: bytes) -> int:  # type: ignore[override]
        if self.tell() > 2_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content)


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    path.write_text("before")
    monkeypatch.setattr("edge.system.files.open", lambda *_, **__: FullDisk(), raising=False)
    with pytest.raises(OSError, match=r"No space left on device.*model\.pt"), write_whole(path) as stream:
        torch.save({"weights": torch.zeros(1_000_000)}, stream)
    monkeypatch.undo()
    assert [one.read_text() for one in tmp_path.iterdir()] == ["before"]
