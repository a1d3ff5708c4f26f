"""The fused preprocessing against the CPU path: its numpy twin everywhere, and kernels.cu itself where it compiles."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.engines.tensorrt import kernel_args as raw
from edge.images.conversion import LEVELS, Bounds, naive_table, prepare, stretch_table
from edge.images.method import Method
from edge.records import Counts, Image, Size
from tests.gpu import host_kernels, twin

KERNELS = host_kernels.SOURCE
EVERY_COUNT = np.arange(LEVELS, dtype=np.uint16)
PAPER = Bounds(1700, 2800)
GUARD_BYTES = 64

SHAPES = [
    # Scan, image: enlarged, shrunk, halved (OpenCV takes another path there), quartered, odd, thin, the same.
    ((40, 30), (96, 64)),
    ((211, 119), (100, 50)),
    ((200, 100), (100, 50)),
    ((400, 200), (100, 50)),
    ((97, 61), (53, 47)),
    ((101, 67), (31, 130)),
    ((1, 1), (7, 5)),
    ((1, 90), (40, 40)),
    ((3, 2), (1, 1)),
    ((64, 48), (64, 48)),
    ((61, 43), (61, 43)),
    ((61, 43), (61, 42)),
]


def scans(shape: tuple[int, int]) -> dict[str, Counts]:
    """Scans that are ordinary, and scans that no detector makes."""
    rng = np.random.default_rng(sum(shape))
    board = np.indices(shape).sum(axis=0) % 2
    return {
        "electrode": rng.normal(2250, 180, shape).clip(0, 65535).astype(np.uint16),
        "noise": rng.integers(0, LEVELS, shape).astype(np.uint16),
        "board": (board * 65535).astype(np.uint16),
        "near-bounds": rng.choice(np.array([0, 1699, 1700, 1701, 2799, 2800, 2801, 65535], np.uint16), shape),
        "black": np.zeros(shape, np.uint16),
        "white": np.full(shape, 65535, np.uint16),
    }


def both_paths(counts: Counts, method: Method, size: Size) -> tuple[Image, raw.RawScan]:
    bounds = PAPER if method.needs_bounds else None
    return prepare(counts, method, bounds, size), raw.raw_scan(counts, method, bounds, size)


@pytest.mark.parametrize(
    "bounds",
    [
        PAPER,
        Bounds(0, 65535),
        Bounds(0, 1),
        Bounds(65534, 65535),
        Bounds(2200, 2203),
        Bounds(1, 65535),
        Bounds(7, 4103),
    ],
)
def test_every_count_gets_exactly_the_grey_level_of_the_table(bounds: Bounds) -> None:
    np.testing.assert_array_equal(twin.levels(EVERY_COUNT, raw.stretch_between(bounds)), stretch_table(bounds))


def test_every_width_of_bounds_divides_exactly_where_a_quotient_is_reached() -> None:
    """The only counts that could go wrong are the first of each grey level and the one before it: all of them."""
    for span in range(1, LEVELS):
        factor = raw.stretch_between(Bounds(0, span)).factor
        assert factor < 1 << 41
        first = (np.arange(257, dtype=np.uint64) * np.uint64(span) + np.uint64(255)) // np.uint64(256)
        above = np.concatenate([first, first[1:] - np.uint64(1)])
        quotients = above * np.uint64(256) // np.uint64(span)
        assert (above * np.uint64(factor) >> np.uint64(32) == quotients).all(), span


def test_naive_is_the_upper_byte() -> None:
    np.testing.assert_array_equal(twin.levels(EVERY_COUNT, raw.NAIVE), naive_table())


@pytest.mark.parametrize("method", raw.METHODS)
@pytest.mark.parametrize(("shape", "size"), SHAPES, ids=str)
def test_the_twin_is_within_one_grey_level_of_opencv(
    shape: tuple[int, int], size: tuple[int, int], method: Method
) -> None:
    for name, counts in scans(shape).items():
        expected, scan = both_paths(counts, method, Size(*size))
        image = twin.fused(scan)
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).max() <= 1, name
        if shape == size:
            np.testing.assert_array_equal(image, expected, name)


def test_random_sizes_stay_within_one_grey_level() -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        height, width, target_height, target_width = rng.integers(1, 260, 4)
        counts = rng.integers(0, LEVELS, (height, width)).astype(np.uint16)
        size = Size(int(target_height), int(target_width))
        expected, scan = both_paths(counts, Method.MIXED, size)
        assert np.abs(twin.fused(scan).astype(int) - expected).max() <= 1, (counts.shape, size)


@pytest.mark.parametrize(("source", "target"), [(1, 9), (9, 1), (2115, 1000), (1000, 2000), ((1 << 20) - 1, 3)])
def test_an_axis_points_into_the_scan_and_never_past_its_end(source: int, target: int) -> None:
    packed = raw.axis(source, target)
    index, weight = packed >> raw.INDEX_SHIFT, packed & ((1 << raw.INDEX_SHIFT) - 1)
    assert len(packed) % 4 == 0
    assert index.max() < source
    assert weight.max() <= raw.WEIGHT_ONE
    assert (weight[index == source - 1] == 0).all()


@pytest.mark.parametrize(("source", "target"), [(0, 5), (5, 0), (1 << 20, 5)])
def test_an_axis_that_does_not_fit_is_refused(source: int, target: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 1048575"):
        raw.axis(source, target)


@pytest.mark.parametrize("method", raw.METHODS)
def test_the_picture_of_a_raw_scan_is_the_image_of_the_cpu_path(method: Method) -> None:
    expected, scan = both_paths(scans((97, 61))["noise"], method, Size(53, 47))
    np.testing.assert_array_equal(scan.image(), expected)


def test_global_bounds_are_asked_for() -> None:
    with pytest.raises(ValueError, match="needs the bounds"):
        raw.raw_scan(np.zeros((2, 2), np.uint16), Method.MIXED, None, Size(2, 2))


Kernel = Callable[[raw.RawScan], Image]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """kernels.cu compiled by the C++ compiler, its threads run one after the other, the image between guards."""
    if host_kernels.COMPILER is None:
        pytest.skip("no C++ compiler is installed")
    run = host_kernels.load(tmp_path_factory.mktemp("kernel"))

    def launched(scan: raw.RawScan) -> Image:
        planes, size = len(scan.stretches), scan.size
        source = Size(*scan.counts.shape)
        guarded = aligned(np.full(planes * size.height_px * size.width_px + 2 * GUARD_BYTES, 0xA5, np.uint8))
        image = guarded[GUARD_BYTES:-GUARD_BYTES]
        counts, columns, rows = (
            aligned(array)
            for array in (
                scan.counts.ravel(),
                raw.axis(source.width_px, size.width_px),
                raw.axis(source.height_px, size.height_px),
            )
        )
        argument = raw.frame(
            scan,
            counts=counts.ctypes.data,
            image=image.ctypes.data,
            columns=columns.ctypes.data,
            rows=rows.ctypes.data,
        )
        how = raw.launch(source, size)
        run(how.kernel, how.grid, how.block, argument)
        assert (guarded[:GUARD_BYTES] == 0xA5).all()
        assert (guarded[-GUARD_BYTES:] == 0xA5).all()
        return image.reshape(planes, *size).copy()

    return launched


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins where device allocations begin, at a multiple of 16 bytes."""
    room = np.empty(array.nbytes + 16, np.uint8)
    start = -room.ctypes.data % 16
    copy = room[start : start + array.nbytes].view(array.dtype)
    copy[...] = array
    return copy


@pytest.mark.parametrize("method", raw.METHODS)
@pytest.mark.parametrize(("shape", "size"), SHAPES, ids=str)
def test_the_kernel_itself_computes_what_the_twin_does(
    kernel: Kernel, shape: tuple[int, int], size: tuple[int, int], method: Method
) -> None:
    for name, counts in scans(shape).items():
        _, scan = both_paths(counts, method, Size(*size))
        np.testing.assert_array_equal(kernel(scan), twin.fused(scan), name)


@pytest.mark.parametrize("architecture", ["compute_75", "compute_87", "compute_90"])
def test_nvcc_compiles_the_kernels(tmp_path: Path, architecture: str) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    ptx = tmp_path / "kernels.ptx"
    command = [nvcc, "--ptx", f"-arch={architecture}", "-Werror", "all-warnings", str(KERNELS), "-o", str(ptx)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    text = ptx.read_text()
    assert ".entry stretch_resize(" in text
    assert ".entry stretch(" in text
    assert "ld.global.nc.v4.u32" in text, "16-byte loads"
