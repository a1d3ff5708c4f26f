"""Files that training writes."""

import errno
import io
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from train.errors import DataError, TrainError
from train.files import read_picture, results_folder, write_text, write_whole
from train.plots import save


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


def test_a_picture_whose_name_is_not_utf_8_is_refused_before_opencv_crashes_on_it(tmp_path: Path) -> None:
    path = tmp_path / "weld ä.png"
    cv2.imwrite(str(path), np.zeros((3, 4), np.uint8))
    picture = read_picture(path, cv2.IMREAD_UNCHANGED)
    assert picture is not None and picture.shape == (3, 4)
    with pytest.raises(DataError, match="its name is not UTF-8"):
        read_picture(path.rename(tmp_path / os.fsdecode(b"weld \xe4.png")), cv2.IMREAD_UNCHANGED)


def test_names_of_files_that_are_not_utf_8_keep_their_bytes_in_a_table(tmp_path: Path) -> None:
    write_text(tmp_path / "table.csv", os.fsdecode(b"B1_\xff.tif") + ",ä\n")
    assert (tmp_path / "table.csv").read_bytes() == b"B1_\xff.tif,\xc3\xa4\n"


def test_a_full_disk_names_the_folder_of_results(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{tmp_path}'")), results_folder(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_plot_on_a_full_disk_leaves_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fuller(io.BytesIO):
        def write(self, content: bytes) -> int:  # type: ignore[override]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save(Figure(), tmp_path / "roc.1")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("edge.system.files.open", lambda *_, **__: Fuller(), raising=False)
    with pytest.raises(OSError, match="No space left"):
        save(Figure(), tmp_path / "roc.1")
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert sorted(before) == ["roc.1.png", "roc.1.svg"]


def test_a_second_command_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    with results_folder(tmp_path), results_folder(tmp_path / "inner"), pytest.raises(TrainError, match="another edge"):
        results_folder(tmp_path).__enter__()
    with results_folder(tmp_path):
        pass
