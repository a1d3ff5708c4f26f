"""Models that were tampered with, and engines that do wrong: R19 and R22."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from edge.engines.choose import open_engine
from edge.engines.golden import check_golden
from edge.errors import ModelError
from edge.model.signed_model import read_model
from tests.support import signed_models
from tests.torture.rig import PATIENCE_S, Rig, wait_until
from tests.torture.trial import Trial

EXIT_CONFIG, EXIT_SOFTWARE = 78, 70
STUCK_AFTER_S = 3.0
"""Instead of the product's 90 s, so that a hang is seen within the row."""
WATCHDOG_S = 5.0
"""Instead of the unit's 120 s."""


def tampered_model(trial: Trial) -> None:
    """R19: a flipped byte in any file, another key, files swapped after verification, an older model: refused."""
    with trial.rig() as rig:
        model = signed_models.make_signed_model(trial.root / "real")
        key = signed_models.write_public_key(trial.root / "real-key.pem")
        files = sorted(path.relative_to(model) for path in model.rglob("*") if path.is_file())
        refused = tried = 0
        for file in files:
            whole = (model / file).read_bytes()
            for place in range(0, len(whole), max(1, len(whole) // trial.size(5, 50))):
                changed = bytearray(whole)
                changed[place] ^= 1
                (model / file).write_bytes(changed)
                tried += 1
                try:
                    read_model(model, key)
                except ModelError:
                    refused += 1
            (model / file).write_bytes(whole)
        trial.require(refused == tried, f"{tried - refused} of {tried} changed models were opened")
        _refused_by_the_daemon(trial, rig, model, key, files)
        _swapped_after_verification(trial, model, key)
        _replayed_older(trial, rig, key)
        trial.findings.tried = tried
        trial.figures |= {"flips": tried, "refused": refused, "files": len(files)}


def bad_engine(trial: Trial) -> None:
    """R22: an engine that raises, hangs, answers NaN or another shape: no verdict from it, a restart mends it.

    And a machine that was meant to have a GPU's engine and has none: the CPU stands in, every verdict says so.
    """
    for fault in ("raises", "wrong-shape"):
        with trial.rig() as rig:
            rig.generator.arrive(30)
            rig.worker.start("--engine", fault)
            code = rig.worker.wait_end()
            trial.require(code != 0, f"{fault}: exit code {code}")
            if fault == "raises":
                trial.require(code == EXIT_SOFTWARE, f"{fault}: exit code {code}, expected {EXIT_SOFTWARE}")
            began_s = time.monotonic()
            rig.worker.start()  # as systemd does
            rig.await_all()
            trial.recovered(time.monotonic() - began_s)
            trial.require_clean_stop(rig.worker)
            trial.take(rig.findings(), fault)
    _nan(trial)
    _hang(trial)
    _no_gpu(trial)


def _no_gpu(trial: Trial) -> None:
    """The real program and networks, where TensorRT is installed and does not work."""
    with trial.rig() as rig:
        model = signed_models.make_signed_model(rig.root / "real")
        key = signed_models.write_public_key(rig.root / "real-key.pem")
        broken = rig.root / "site" / "tensorrt"
        broken.mkdir(parents=True)
        (broken / "__init__.py").write_text("raise ImportError('no driver')\n")
        rig.generator.arrive(10)
        environment = os.environ | {"PYTHONPATH": f"{broken.parent}:{os.environ.get('PYTHONPATH', Path.cwd())}"}
        command = [sys.executable, "-m", "edge.cli", "--config", str(rig.config), "--model", str(model)]
        with (rig.root / "edge-worker.log").open("wb") as log:
            process = subprocess.Popen([*command, "--trusted-key", str(key)], env=environment, stderr=log)
        try:
            wait_until(lambda: rig.subscriber.count("verdict") >= 10 or process.poll() is not None, "10 verdicts")
            process.terminate()
            trial.require(process.wait(PATIENCE_S) == 0, "the worker without a GPU did not stop cleanly")
        finally:
            process.kill()
        said = [message.content["model"]["degraded"] for message in rig.subscriber.of("verdict")]
        flagged = [why for why in said if why and why.startswith("TensorRT: ")]
        trial.require(len(flagged) == len(said) == 10, f"degraded in {len(flagged)} of {len(said)} verdicts")
        trial.figures["flagged_as_degraded"] = len(flagged)


def _refused_by_the_daemon(trial: Trial, rig: Rig, model: Path, key: Path, files: list[Path]) -> None:
    """The real program: exit code, its word on the error output, and a good model beside it untouched."""
    graph = next(file for file in files if file.name == "classifier.onnx")
    whole = (model / graph).read_bytes()
    (model / graph).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = rig.run_cli("--model", str(model), "--trusted-key", str(key))
    said = done.stderr
    trial.require(done.returncode == EXIT_CONFIG, f"a tampered model: exit code {done.returncode}")
    trial.require("was changed" in said and "model loaded" not in said, f"it said {said[-300:]!r}")
    (model / graph).write_bytes(whole)
    other = signed_models.write_public_key(trial.root / "other-key.pem", signed_models.OTHER_KEY)
    done = rig.run_cli("--model", str(model), "--trusted-key", str(other))
    trial.require(done.returncode == EXIT_CONFIG, f"another key: exit code {done.returncode}")
    trial.require("is signed with the key" in done.stderr, f"it said {done.stderr[-300:]!r}")
    trial.require(not rig.state.exists(), "a refused model left traces in the state directory")


def _swapped_after_verification(trial: Trial, model: Path, key: Path) -> None:
    """What is run are the bytes that were verified, whatever lies there afterwards."""
    verified = read_model(model, key)
    swapped = trial.root / "swapped"
    shutil.copytree(model, swapped)
    for file in model.rglob("*.onnx"):
        file.write_bytes(b"something else")
    engine = open_engine(verified, "onnxruntime")
    try:
        check_golden(verified, engine)
    finally:
        engine.close()
    shutil.rmtree(model)
    swapped.rename(model)


def _replayed_older(trial: Trial, rig: Rig, key: Path) -> None:
    """An old model with a good signature, put back by whoever writes the folder; then by an operator, who may."""

    def made_in(year: int) -> tuple[str, ...]:
        def dated(content: signed_models.Content) -> None:
            content |= {"created_at": f"{year}-01-01T00:00:00Z", "model_id": f"model-{year}"}

        made = signed_models.make_signed_model(trial.root / str(year), edit=dated)
        return ("--model", str(made), "--trusted-key", str(key))

    older, newer = made_in(2024), made_in(2025)
    trial.require(_runs(rig, *newer), "the newer model does not run")
    before = {path.name: path.read_bytes() for path in rig.state.iterdir() if path.is_file()}
    done = rig.run_cli(*older)
    trial.require(done.returncode == EXIT_CONFIG, f"an older model: exit code {done.returncode}")
    trial.require(
        "older than model-2025" in done.stderr and "model loaded" not in done.stderr, f"it said {done.stderr[-300:]!r}"
    )
    after = {path.name: path.read_bytes() for path in rig.state.iterdir() if path.is_file()}
    trial.require(before == after, "a refused older model changed the state directory")
    trial.require(_runs(rig, *newer), "the newer model does not run any more")
    done = rig.run_cli(*older, "--accept-older-model")
    trial.require(done.returncode == 0 and "older model accepted" in done.stderr, f"it said {done.stderr[-300:]!r}")
    trial.require(_runs(rig, *older), "the older model does not run although it was accepted")


def _runs(rig: Rig, *options: str) -> bool:
    """Whether the real program gets ready and stops cleanly."""
    said = rig.root / "edge-worker.log"
    command = [sys.executable, "-m", "edge.cli", "--config", str(rig.config), *options]
    with said.open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        wait_until(lambda: b'"event": "ready"' in said.read_bytes() or process.poll() is not None, "ready, or ended")
        process.terminate()
        return process.wait(PATIENCE_S) == 0
    finally:
        process.kill()


def _nan(trial: Trial) -> None:
    with trial.rig() as rig:
        rig.generator.arrive(40)
        rig.worker.start("--engine", "nan")
        wait_until(lambda: rig.subscriber.count("verdict") == 40, "40 verdicts")
        trial.require_clean_stop(rig.worker)
        verdicts = [message.content for message in rig.subscriber.of("verdict")]
        unscored = [verdict for verdict in verdicts if verdict["p_abnormal"] is None]
        right = [v for v in unscored if (v["outcome"], v["reasons"]) == ("review", ["non-finite-score"])]
        trial.require(bool(unscored) and len(right) == len(unscored), f"NaN became {unscored[:1]}")
        trial.figures["nan_sent_to_review"] = len(right)


def _hang(trial: Trial) -> None:
    """The harness is systemd: it counts the beats and kills when they stop."""
    with trial.rig() as rig, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        address = rig.root / "notify"
        notify.bind(str(address))
        notify.settimeout(WATCHDOG_S)
        rig.generator.arrive(30)
        prefix = ("env", f"NOTIFY_SOCKET={address}")
        rig.worker.start("--engine", "hangs", "--stuck-after-s", str(STUCK_AFTER_S), prefix=prefix)
        began_s = time.monotonic()
        beats = 0
        try:
            while time.monotonic() - began_s < 60:
                beats += notify.recv(4096) == b"WATCHDOG=1"
        except TimeoutError:
            pass
        else:
            trial.require(False, "the watchdog was fed although the engine hangs")
        trial.figures |= {"watchdog_beats_before_silence": beats}
        rig.worker.kill()
        trial.require(rig.worker.count("loop is stuck", loop="worker") > 0, "the log does not name the stuck loop")
        began_s = time.monotonic()
        rig.worker.start()
        rig.await_all()
        trial.recovered(time.monotonic() - began_s)
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings(), "hangs")
