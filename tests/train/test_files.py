"""Files that training writes."""

import errno
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from edge.errors import EdgeError
from edge.records import Size
from edge.system.progress import Reporter
from tests.support.fakes import write_scan
from train.dataset import read_labels, unlabelled_files
from train.errors import DataError, TrainError
from train.files import read_picture, results_folder, write_text, write_whole
from train.gate.foreign_sets import of_folder
from train.gate.perturb import read_photos
from train.papers.transfer.image_sets import Choice, open_image_set
from train.papers.transfer.pictures import open_pictures
from train.papers.welds.images import read_welds
from train.plots import save
from train.simulator.simulate import write_lots


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


def _lot(folder: Path, name: str = "a.tif") -> None:
    (folder / "normal").mkdir(parents=True)
    write_scan(folder / "normal" / name)


def _listed(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,bundle,label\nB1/normal/a.tif,B1,normal\n")


READERS: dict[str, Callable[[Path], object]] = {
    "lots by folders": read_labels,
    "lots by labels.csv": lambda folder: (_listed(folder), read_labels(folder)),
    "scans without a label": lambda folder: (_listed(folder), unlabelled_files(folder)),
    "images to refuse": lambda folder: list(of_folder(folder)),
    "photographs": read_photos,
    "pictures": lambda folder: open_pictures(folder).__enter__(),
    "an image set": lambda folder: open_image_set(folder, Choice(Size(64, 64)), Reporter()),
    "scans beside simulated ones": lambda folder: write_lots(folder, seed=0, lots=1, scans_per_lot=1),
}


@pytest.mark.usefixtures("rights_hold")
@pytest.mark.parametrize("mode", [0o000, 0o300])
@pytest.mark.parametrize("reader", READERS)
def test_a_folder_that_may_not_be_listed_is_told_and_not_taken_for_empty(
    tmp_path: Path, reader: str, mode: int
) -> None:
    """`Path.rglob` and `Path.glob` leave it out without a word: a lot would be missing from all that follows."""
    _lot(tmp_path / "B1")
    _lot(tmp_path / "B2", "b.tif")
    (tmp_path / "B2").chmod(mode)
    with pytest.raises(EdgeError) as caught:
        READERS[reader](tmp_path)
    assert f"the folder {tmp_path / 'B2'} cannot be listed: Permission denied" == caught.value.message
    assert "who may read it" in caught.value.hint


@pytest.mark.usefixtures("rights_hold")
@pytest.mark.parametrize("named", ["labels.csv", "folders"])
def test_what_a_file_system_keeps_for_itself_hides_no_lot(tmp_path: Path, named: str) -> None:
    """The folder of data may be a whole disk."""
    _lot(tmp_path / "B1")
    if named == "labels.csv":
        _listed(tmp_path)
    (tmp_path / "lost+found").mkdir(mode=0)
    assert [row.file for row in read_labels(tmp_path)] == ["B1/normal/a.tif"]


@pytest.mark.usefixtures("rights_hold")
def test_masks_that_may_not_be_listed_are_not_taken_for_none(tmp_path: Path) -> None:
    """The defects of these welds would count as sound."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((300, 300), 128, np.uint8)).save(tmp_path / name / "w.png")
    (tmp_path / "masks").chmod(0)
    with pytest.raises(DataError, match="masks cannot be listed: Permission denied"):
        read_welds(tmp_path)
