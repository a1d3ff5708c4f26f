"""Built engines on disk: found for exactly what they were built for, and loaded only as they were sealed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edge.engines.tensorrt.plan_cache import PlanCache, PlanRefused, key_of
from edge.errors import EngineError

FACTS = {
    "onnx_sha256": "ab" * 32,
    "gpu": "RTX A2000",
    "compute_capability": "8.6",
    "driver": "580.95.05",
    "cuda": "13.0",
    "tensorrt": "11.4.0.106",
    "precision": "fp16",
    "profile": "1..2 x 1 x 2000 x 1000",
}
PLAN = bytes(range(256)) * 40


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    cache = PlanCache(tmp_path / "plans", tmp_path / "state" / "device.key")
    assert cache.is_writable()
    return cache


def changed(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_was_stored_is_loaded(cache: PlanCache) -> None:
    assert cache.load("gate", FACTS) is None
    cache.store("gate", FACTS, PLAN)
    assert cache.load("gate", FACTS) == PLAN
    assert cache.load("classifier", FACTS) is None


@pytest.mark.parametrize("fact", FACTS)
def test_the_key_changes_with_every_fact(cache: PlanCache, fact: str) -> None:
    """Another ONNX graph, GPU, driver, CUDA, TensorRT, precision or profile: no plan is found, so one is built."""
    cache.store("gate", FACTS, PLAN)
    other = FACTS | {fact: FACTS[fact] + "1"}
    assert key_of(other) != key_of(FACTS)
    assert cache.load("gate", other) is None
    assert cache.load("gate", FACTS) == PLAN


def test_the_key_does_not_depend_on_the_order_of_the_facts() -> None:
    assert key_of(dict(reversed(FACTS.items()))) == key_of(FACTS)


def test_a_change_of_any_byte_is_refused(cache: PlanCache) -> None:
    path = cache.store("gate", FACTS, PLAN)
    whole = path.read_bytes()
    for position in [*range(0, len(whole) - len(PLAN), 7), len(whole) - len(PLAN), len(whole) - 1]:
        changed(path, position)
        with pytest.raises(PlanRefused, match=r"sealed by this machine|truncated or no plan") as caught:
            cache.load("gate", FACTS)
        assert "model build" in caught.value.hint
        path.write_bytes(whole)
    assert cache.load("gate", FACTS) == PLAN


@pytest.mark.parametrize("kept_bytes", [0, 1, 11, 12, 200, -1])
def test_a_truncated_plan_is_refused(cache: PlanCache, kept_bytes: int) -> None:
    path = cache.store("gate", FACTS, PLAN)
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(PlanRefused):
        cache.load("gate", FACTS)


def test_bytes_behind_the_plan_are_refused(cache: PlanCache) -> None:
    path = cache.store("gate", FACTS, PLAN)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(PlanRefused, match="sealed by this machine"):
        cache.load("gate", FACTS)


def test_a_plan_of_another_machine_is_refused(cache: PlanCache, tmp_path: Path) -> None:
    elsewhere = PlanCache(tmp_path / "elsewhere", tmp_path / "elsewhere.key")
    assert elsewhere.is_writable()
    foreign = elsewhere.store("gate", FACTS, PLAN)
    cache.store("gate", FACTS, PLAN)
    cache.path_of("gate", FACTS).write_bytes(foreign.read_bytes())
    with pytest.raises(PlanRefused, match="not sealed by this machine"):
        cache.load("gate", FACTS)


def test_a_plan_under_the_name_of_another_says_what_it_was_built_for(cache: PlanCache) -> None:
    """Sealed here, but for the driver before: the name alone is not trusted."""
    older = FACTS | {"driver": "570.1"}
    cache.store("gate", older, PLAN).rename(cache.path_of("gate", FACTS))
    with pytest.raises(PlanRefused, match=r"driver is 570\.1, here 580\.95\.05"):
        cache.load("gate", FACTS)


def test_a_plan_of_the_other_network_is_refused(cache: PlanCache) -> None:
    cache.store("gate", FACTS, PLAN).rename(cache.path_of("classifier", FACTS))
    with pytest.raises(PlanRefused, match="sealed by this machine"):
        cache.load("classifier", FACTS)


def test_a_swap_after_loading_changes_nothing(cache: PlanCache) -> None:
    """What was checked are the bytes in hand, not the file."""
    path = cache.store("gate", FACTS, PLAN)
    plan = cache.load("gate", FACTS)
    path.write_bytes(b"evil" * 1000)
    assert plan == PLAN


def test_a_swap_between_opening_and_reading_is_seen(cache: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache.store("gate", FACTS, PLAN)
    opened, whole = os.fstat, path.read_bytes()

    def swapped(fd: int) -> os.stat_result:
        path.write_bytes(whole[:-1] + b"!")
        return opened(fd)

    monkeypatch.setattr(os, "fstat", swapped)
    with pytest.raises(PlanRefused):
        cache.load("gate", FACTS)


def test_links_and_folders_are_no_plans(cache: PlanCache, tmp_path: Path) -> None:
    path = cache.store("gate", FACTS, PLAN)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(PlanRefused, match="cannot be read"):
        cache.load("gate", FACTS)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(PlanRefused, match="no regular file"):
        cache.load("gate", FACTS)


def test_the_device_key_is_made_once_and_is_its_owners(cache: PlanCache, tmp_path: Path) -> None:
    key_file = tmp_path / "state" / "device.key"
    assert not key_file.exists()
    cache.store("gate", FACTS, PLAN)
    key = key_file.read_bytes()
    assert len(key) == 32
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    cache.store("classifier", FACTS, PLAN)
    assert key_file.read_bytes() == key
    assert sorted(path.name for path in key_file.parent.iterdir()) == ["device.key"]


@pytest.mark.parametrize(("mode", "content"), [(0o640, b"k" * 32), (0o604, b"k" * 32), (0o600, b"none"), (0o600, b"")])
def test_a_device_key_that_others_may_read_or_that_is_none_is_not_used(
    cache: PlanCache, tmp_path: Path, mode: int, content: bytes
) -> None:
    key_file = tmp_path / "state" / "device.key"
    key_file.parent.mkdir()
    key_file.write_bytes(content)
    key_file.chmod(mode)
    with pytest.raises(EngineError, match=rf"mode {mode:o} and {len(content)} bytes"):
        cache.store("gate", FACTS, PLAN)


def credential(tmp_path: Path, mode: int, content: bytes = b"k" * 32) -> PlanCache:
    """A cache whose key is in systemd's folder of secrets, with the mode that systemd 254 and newer give it."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    key_file = folder / "device.key"
    key_file.write_bytes(content)
    key_file.chmod(mode)
    cache = PlanCache(tmp_path / "plans", key_file, folder)
    assert cache.is_writable()
    return cache


def test_a_key_that_systemd_shows_by_an_access_list_is_used(tmp_path: Path) -> None:
    """On a noswap tmpfs a credential is root's, 0440, with an access list: systemd issues 29096 and 29435."""
    cache = credential(tmp_path, 0o440)
    cache.store("gate", FACTS, PLAN)
    assert cache.load("gate", FACTS) == PLAN


@pytest.mark.parametrize("mode", [0o444, 0o460, 0o404])
def test_a_credential_that_more_may_read_or_write_is_not_used(tmp_path: Path, mode: int) -> None:
    with pytest.raises(EngineError, match=f"mode {mode:o} and 32 bytes, expected 400 or 440"):
        credential(tmp_path, mode).store("gate", FACTS, PLAN)


def test_a_credential_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = credential(tmp_path, 0o440)
    found = os.fstat

    def foreign(fd: int) -> os.stat_result:
        fields = list(found(fd))
        fields[4] = 4321  # st_uid
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", foreign)
    with pytest.raises(EngineError, match="mode 440"):
        cache.store("gate", FACTS, PLAN)


def test_the_stand_in_for_a_key_that_was_never_made_says_who_makes_it(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="mode 440 and 4 bytes") as caught:
        credential(tmp_path, 0o440, b"none").store("gate", FACTS, PLAN)
    assert "edge-engine-build.service" in caught.value.hint


def test_beside_the_credentials_the_mode_is_as_strict_as_ever(tmp_path: Path) -> None:
    key_file = tmp_path / "device.key"
    key_file.write_bytes(b"k" * 32)
    key_file.chmod(0o440)
    cache = PlanCache(tmp_path / "plans", key_file, tmp_path / "credentials")
    assert cache.is_writable()
    with pytest.raises(EngineError, match="mode 440 and 32 bytes, expected 600"):
        cache.store("gate", FACTS, PLAN)


def test_a_write_that_fails_leaves_the_plan_before_in_place(cache: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store("gate", FACTS, PLAN)

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match="No space left on device"):
        cache.store("gate", FACTS, b"new")
    assert cache.load("gate", FACTS) == PLAN
    assert [path.suffix for path in cache.folder.iterdir()] == [".plan"]


def test_the_last_good_plan_is_kept_and_older_ones_are_deleted(cache: PlanCache) -> None:
    generations = [FACTS | {"driver": f"58{number}.1"} for number in range(4)]
    for age, facts in enumerate(generations):
        path = cache.store("gate", facts, PLAN)
        os.utime(path, (1000 + age, 1000 + age))
    cache.store("classifier", FACTS, PLAN)
    cache.prune("gate", keep=[generations[3]])
    assert [cache.load("gate", facts) is not None for facts in generations] == [False, False, True, True]
    assert cache.load("classifier", FACTS) == PLAN
