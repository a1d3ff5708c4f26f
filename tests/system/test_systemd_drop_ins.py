"""The worker's drop-ins, for a GPU and for OpenVINO, and the GPU's build unit."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.engines.tensorrt.plan_cache import PlanCache
from tests.support.systemd_box import commands_under, exposure, mistakes, needs_systemd

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "systemd"
BUILD = SYSTEMD / "edge-engine-build.service"
DEVICES = SYSTEMD / "edge-gpu-devices.service"
DROP_IN = SYSTEMD / "edge-worker-gpu.conf"
OPENVINO = SYSTEMD / "edge-worker-openvino.conf"
UNITS = ("build", "gpu", "openvino")


def worker_with(drop_in: Path, folder: Path) -> Path:
    """The worker's unit as systemd merges it: what stands last wins, lists grow."""
    unit = (SYSTEMD / "edge-worker.service").read_text(encoding="utf-8")
    lines = drop_in.read_text(encoding="utf-8").split("[Service]\n")[1]
    merged = folder / "edge-worker.service"
    merged.write_text(unit.replace("[Install]", f"{lines}\n[Install]"), encoding="utf-8")
    return merged


def unit_of(name: str, folder: Path) -> Path:
    return BUILD if name == "build" else worker_with(OPENVINO if name == "openvino" else DROP_IN, folder)


@needs_systemd
def test_none_is_exposed_more_than_two_points(tmp_path: Path) -> None:
    for name in UNITS:
        assert exposure(unit_of(name, tmp_path)) <= 2.0, name


@needs_systemd
@pytest.mark.parametrize("unit", [*UNITS, "devices"])
def test_systemd_sees_no_mistake(tmp_path: Path, unit: str) -> None:
    assert mistakes(DEVICES if unit == "devices" else unit_of(unit, tmp_path)) == []


def test_the_build_comes_first_and_the_line_starts_without_it() -> None:
    build, drop_in = BUILD.read_text(encoding="utf-8"), DROP_IN.read_text(encoding="utf-8")
    assert "Type=oneshot" in build
    assert "Before=edge-worker.service" in build
    assert "model build" in build
    assert re.search(r"^Wants=.*\bedge-engine-build\.service", drop_in, re.MULTILINE)
    assert "Requires=" not in drop_in
    assert "SetCredential=device.key:" in drop_in, "without it a missing key would keep the worker from starting"


def test_the_drivers_devices_are_there_before_the_worker_and_the_build_start() -> None:
    """Neither may make them or load the driver, and systemd looks up DeviceAllow= when it starts a unit."""
    devices = DEVICES.read_text(encoding="utf-8")
    assert "nvidia-modprobe -u -c 0" in devices
    assert not re.search(r"^(DevicePolicy|DeviceAllow|PrivateDevices|User)=", devices, re.MULTILINE)
    for file in (BUILD, DROP_IN):
        unit = file.read_text(encoding="utf-8")
        assert re.search(rf"^Wants=.*\b{DEVICES.name}\b", unit, re.MULTILINE)
        assert re.search(rf"^After=.*\b{DEVICES.name}\b", unit, re.MULTILINE)
        assert "char-nvidia-uvm" in unit and "nvidia-modprobe" not in unit


def test_the_worker_compiles_nothing_and_the_build_may() -> None:
    assert "MemoryDenyWriteExecute=yes" in (SYSTEMD / "edge-worker.service").read_text(encoding="utf-8")
    assert "MemoryDenyWriteExecute" not in DROP_IN.read_text(encoding="utf-8")
    assert "MemoryDenyWriteExecute=yes" not in BUILD.read_text(encoding="utf-8")


def test_openvinos_drop_in_gives_up_one_thing() -> None:
    settings = [line for line in OPENVINO.read_text(encoding="utf-8").splitlines() if line and line[0] not in "#["]
    assert settings == ["MemoryDenyWriteExecute=no"]


def test_they_do_not_share_a_user() -> None:
    build = BUILD.read_text(encoding="utf-8")
    assert "User=edge-engine\nGroup=edge-worker" in build


def value_of(unit: Path, key: str) -> str:
    """What a unit says last."""
    return re.findall(rf"^{key}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)[-1]


def test_the_readme_installs_what_the_gpus_units_ask_for() -> None:
    readme = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    user, group = value_of(BUILD, "User"), value_of(BUILD, "Group")
    assert re.search(rf"useradd --system --gid {group} --home /var/lib/{user} .* {user}\n", readme)
    for file in (DEVICES, BUILD, DROP_IN):
        installed = re.search(rf"install .*systemd/{file.name} .*(/etc/systemd/system/\S*)", readme)
        assert installed is not None
        assert file is not DROP_IN or installed[1] in DROP_IN.read_text(encoding="utf-8")
    mode = value_of(SYSTEMD / "edge-worker.service", "StateDirectoryMode")
    assert f"install -d -m {mode} -o edge-worker -g edge-worker /var/lib/edge-worker\n" in readme


class Installed:
    """The directories of both services, with the modes of README and units, under numbers of users nobody has."""

    WORKER, ENGINE = 61_001, 61_002
    GROUP = 61_001

    def __init__(self, root: Path) -> None:
        self.root = root
        worker = SYSTEMD / "edge-worker.service"
        self.worker_home = root / value_of(worker, "StateDirectory")
        self.engine_home = root / value_of(BUILD, "StateDirectory")
        for unit, home, user in ((worker, self.worker_home, self.WORKER), (BUILD, self.engine_home, self.ENGINE)):
            home.mkdir()
            home.chmod(int(value_of(unit, "StateDirectoryMode"), 8))
            os.chown(home, user, self.GROUP)
        self.model = self._model_by_the_readme()
        self.state = self.worker_home / "state"
        self.state.mkdir(mode=0o700)
        os.chown(self.state, self.WORKER, self.GROUP)
        cache = PlanCache(self.engine_home / "plans", self.engine_home / "device.key")
        umask = os.umask(int(value_of(BUILD, "UMask"), 8))
        try:
            assert cache.is_writable()
            self.plan = cache.store("gate", {"gpu": "any"}, b"plan")
        finally:
            os.umask(umask)
        for path in (self.engine_home / "plans", self.engine_home / "device.key", self.plan):
            os.chown(path, self.ENGINE, self.GROUP)

    def _model_by_the_readme(self) -> Path:
        """Copied by the README's command from a folder that only its owner may read."""
        (source := self.root / "your-model").mkdir(mode=0o700)
        (source / "manifest.json").touch(mode=0o600)
        (command,) = (
            line for line in commands_under("install.md", "Install on a line PC").splitlines() if "your-model" in line
        )
        command = command.replace("/var/lib", str(self.root))
        subprocess.run(["sh", "-ec", f"umask 022; {command}"], cwd=self.root, check=True, timeout=60)
        return self.worker_home / "model"

    def may(self, user: int, how: str, path: Path) -> bool:
        """As test(1) says: `-r` read, `-w` write, `-x` enter."""
        command = ["test", how, str(path)]
        return not subprocess.run(command, user=user, group=self.GROUP, extra_groups=[], cwd="/").returncode


@pytest.fixture
def installed() -> Iterator[Installed]:
    root = Path(tempfile.mkdtemp(prefix="edge-units-"))  # the folders of tmp_path are closed to other users
    root.chmod(0o755)
    yield Installed(root)
    shutil.rmtree(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as other users")
def test_the_build_reads_the_model_and_the_worker_the_engine_and_neither_more(installed: Installed) -> None:
    worker, engine = installed.WORKER, installed.ENGINE
    assert installed.may(engine, "-x", installed.model) and installed.may(engine, "-r", installed.model)
    assert installed.may(engine, "-r", installed.model / "manifest.json")
    assert installed.may(worker, "-r", installed.model / "manifest.json")
    assert installed.may(worker, "-r", installed.plan)
    for user, path in (
        (engine, installed.worker_home),
        (engine, installed.model),
        (engine, installed.model / "manifest.json"),
        (worker, installed.model / "manifest.json"),
        (worker, installed.engine_home),
        (worker, installed.plan.parent),
        (worker, installed.plan),
    ):
        assert not installed.may(user, "-w", path), path
    assert not installed.may(engine, "-x", installed.state)
    assert not installed.may(worker, "-r", installed.engine_home / "device.key"), "systemd hands it over"
