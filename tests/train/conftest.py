"""Small lots for the tests of the training, and a small network."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile


@pytest.fixture
def shallow() -> Iterator[None]:
    """One block a stage where ResNet-34 has 3 to 6: a quarter of the weights, for what asks nothing of the network.

    In this process alone: others, that it starts, have the whole network.
    """
    import torchvision
    from torchvision.models.resnet import BasicBlock, ResNet

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.models, "resnet34", lambda weights: ResNet(BasicBlock, [1, 1, 1, 1]))
        yield


@pytest.fixture(scope="session")
def small_lot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 lots of 8 scans, 300 x 300 px; half of them abnormal: a good part of their coating is missing."""
    return write_lots(tmp_path_factory.mktemp("lot"), 0)


@pytest.fixture(scope="session")
def tiny_lot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 lots of 4 such scans, for what learns from a lot many times over."""
    return write_lots(tmp_path_factory.mktemp("tiny-lot"), 0, scans=4)


@pytest.fixture(scope="session")
def held_back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many other scans of the same kind, of other lots."""
    return write_lots(tmp_path_factory.mktemp("held-back"), 1, "H")


LABELS = ("normal", "abnormal")


def write_lots(folder: Path, seed: int, prefix: str = "B", scans: int = 8) -> Path:
    rng = np.random.default_rng(seed)
    lines = ["file,bundle,label"]
    for lot in range(3):
        for number in range(scans):
            counts = rng.normal(2650, 10, (300, 300))
            counts[30:270, 30:270] = 1950 + 40 * lot + rng.normal(0, 10, (240, 240))
            if number % 2:
                top, left = rng.integers(60, 100, 2)
                counts[top : top + 120, left : left + 120] = 2650
            name = f"{prefix}{lot}_{number}.tif"
            tifffile.imwrite(folder / name, counts.astype(np.uint16), photometric="minisblack")
            lines.append(f"{name},{prefix}{lot},{LABELS[number % 2]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def cut_off_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], set[Path]]:
    """Cut every training off where it calls this function; the files by which those would have gone on."""
    from train.resume import Resume

    def cut(fit: str) -> set[Path]:
        paths: set[Path] = set()

        def stop(*given: object, **named: object) -> None:
            (resume,) = (each for each in (*given, *named.values()) if isinstance(each, Resume))
            paths.add(resume.path)
            raise KeyboardInterrupt

        monkeypatch.setattr(fit, stop)
        return paths

    return cut
