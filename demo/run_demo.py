"""`make demo`: a simulated lot through the real worker and a real broker to a subscriber, then the report.

    python demo/run_demo.py --out build/demo [--broker auto|mosquitto|embedded] [--desk]

Leaves in the output directory verdicts.jsonl (each verdict as the subscriber received it, one per line), report.html,
and the settings, logs and ledger of the run. The exit code is 0 only if every file got its verdict, no message was
lost, every bad file was called unreadable and everything ended in order.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from broker import HOST, Broker, Choice, start_broker
from children import child, stop, tail
from mes import Mes
from rich.console import Console
from rich.text import Text
from screen import Board, Screen, expected, tally
from station import Lot, Station, make_lot

from edge.contract.messages import Topics, Verdict
from edge.errors import EdgeError
from edge.records import Outcome

MODEL = Path(__file__).resolve().parent / "model"
MARKER = ".made-by-the-demo"
TOPICS = Topics(root="acme", site="plant-1", area="electrodes", line="line-1", station="xray-1")
PACE_S = 0.8
SILENCE_S = 120.0
"""Nothing new for so long, at the start or between two verdicts, is a failure."""
STOP_TIMEOUT_S = 30.0
REPLAY_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    out: Path
    model: Path
    trusted_key: Path | None
    broker: Choice
    desk: bool


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A simulated lot through the real worker and a real broker.")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="replaced if it is an earlier demo's")
    parser.add_argument("--model", type=Path, default=MODEL, help="signed model (default: the demo's)")
    parser.add_argument("--trusted-key", type=Path, help="public key of a model of your own")
    parser.add_argument("--broker", choices=("auto", "mosquitto", "embedded"), default="auto")
    parser.add_argument("--desk", action="store_true", help="serve the review desk on the demo's evidence at the end")
    options = Options(**vars(parser.parse_args(arguments)))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a tick is no reason to fail
    screen = Screen(Console(highlight=False))
    try:
        run(options, screen)
        if options.desk:
            serve_desk(options.out, screen)
    except EdgeError as error:
        screen.failure(error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        screen.failure("interrupted", "run it again; everything it had started is stopped")
        return 130
    return 0


def run(options: Options, screen: Screen) -> None:
    """The whole demo; raises EdgeError for whatever is not as it should be."""
    started = time.monotonic()
    out = options.out
    prepare(out, options.model)
    screen.console.print("\n[bold]electrode-line demo[/]  a simulated lot, from the X-ray station to the MES\n")
    with screen.step("Simulating scans") as step:
        lot = make_lot(out / "lot", lambda done, total: step.update(f"Simulating scan {done} of {total}"))
        step.done = f"Simulated {len(lot.files)} files: {_describe(lot)}"
    mes = Mes(TOPICS, out / "verdicts.jsonl")
    with ExitStack() as stack:
        with screen.step("Starting a broker") as step:
            broker = start_broker(options.broker, out / "broker", stack, step.update)
            stack.enter_context(mes.connected(HOST, broker.port, broker.protocol))
            step.done = f"Broker: {broker.name} on port {broker.port}; MES subscribed, MQTT {broker.protocol}"
        if broker.costs:
            screen.note(broker.costs)
        with screen.step("Starting edge-worker") as step:
            command: list[str | Path] = [program("edge-worker"), "--config", write_settings(options, broker)]
            worker = stack.enter_context(child(command, out / "worker.log", grace_s=STOP_TIMEOUT_S))
            line = Line(worker, out / "worker.log", mes)
            line.follow(lambda: mes.state == "online" and mes.model is not None, "the worker to come online")
            step.done = f"edge-worker is online{_model(mes)}"
        delays_s = watch(line, mes, lot, out / "station", screen)
        with screen.step("Stopping edge-worker") as step:
            code = stop(worker, STOP_TIMEOUT_S)
            if code != 0:
                raise line.failed(f"edge-worker ended with code {code} on SIGTERM")
            line.follow(lambda: mes.state == "stopped", "the MES to hear that the station stopped")
            step.done = "edge-worker stopped on SIGTERM: exit code 0, and the MES was told"
    with screen.step("Replaying the same folder against the labels") as step:
        metrics = replay(options, lot)
        step.done = "Replayed the same folder against the labels, wrote the report"
    check(mes, lot)
    screen.panel(f"Done in {time.monotonic() - started:.0f} s", summary(out, mes, lot, delays_s, metrics))


def prepare(out: Path, model: Path) -> None:
    """An empty output directory; raises EdgeError rather than delete what no demo made."""
    if not (model / "manifest.json").is_file():
        raise EdgeError(f"there is no signed model in {model}", hint="git checkout demo/model, or make demo-model")
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise EdgeError(f"{out} holds files that are not an earlier demo's", hint="choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("demo/run_demo.py made this directory and may delete it\n", "utf-8")
    (out / "station").mkdir()
    (out / "desk").mkdir(mode=0o700)


def write_settings(options: Options, broker: Broker) -> Path:
    """`edge.toml`, as a plant would write it."""
    out = options.out.resolve()
    tables: dict[str, dict[str, str | int]] = {
        # A file that stops growing stays so in this demo: no need to wait the usual minute for it.
        "folder": {"path": str(out / "station"), "incomplete_after_s": 5},
        "model": {"dir": str(options.model.resolve())},
        "state": {"dir": str(out / "state")},
        "desk": {"dir": str(out / "desk")},
        "broker": {"host": HOST, "port": broker.port, "protocol": broker.protocol},
        "topic": {"root": TOPICS.root, "site": TOPICS.site, "area": TOPICS.area, "line": TOPICS.line},
        "log": {"format": "json"},
    }
    if options.trusted_key is not None:
        tables["model"]["trusted_key"] = str(options.trusted_key.resolve())
    lines = ["# Written by the demo. Every key: systemd/edge.toml.example", f'station = "{TOPICS.station}"']
    for table, keys in tables.items():
        # A JSON string is a TOML string, whatever the path holds.
        lines += [
            "",
            f"[{table}]",
            *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()),
        ]
    config = out / "edge.toml"
    config.write_text("\n".join(lines) + "\n", "utf-8")
    return config


def serve_desk(out: Path, screen: Screen) -> None:
    """Serve the review desk on the demo's evidence, with an account of its own, until Ctrl-C.

    Raises EdgeError where it does not serve, as with another desk on its port.
    """
    command = [str(program("edge-desk")), "run", "--config", str(out / "edge.toml")]
    password = secrets.token_urlsafe(9)
    add = [command[0], "user", "add", "demo", "--role", "admin", *command[2:]]
    subprocess.run(add, input=password, text=True, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program
    log = out / "desk.log"
    with child(command, log) as desk, suppress(KeyboardInterrupt):
        while "desk ready" not in tail(log) and desk.poll() is None:
            time.sleep(0.1)
        if desk.poll() is None:
            screen.console.print(
                f"\nReview desk: http://127.0.0.1:8480/  account [bold]demo[/], password [bold]{password}[/]"
            )
            screen.console.print("Ctrl-C ends it. Its answers wait for a worker; this demo's has stopped.")
        if desk.wait() != 0:
            what = f"the desk ended with code {desk.returncode}; its last words:\n{tail(log)}"
            raise EdgeError(what, hint=f"read {log}; another desk may hold the port")


def program(name: str) -> Path:
    """A program in the environment that runs this script."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise EdgeError(f"{path} is not installed", hint="start the demo with `make demo`")
    return path


class Line:
    """The running worker, followed by what the MES hears of it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, mes: Mes) -> None:
        self._process = process
        self._log = log
        self._mes = mes

    def follow(
        self,
        until: Callable[[], bool],
        what: str,
        on_verdict: Callable[[Verdict, datetime], None] = lambda _verdict, _at: None,
    ) -> None:
        """Receive until a condition holds; raises EdgeError when the worker dies or falls silent before."""
        deadline = time.monotonic() + SILENCE_S
        while not until():
            received = self._mes.receive(0.2)
            if received is not None:
                on_verdict(*received)
                deadline = time.monotonic() + SILENCE_S
            elif self._process.poll():
                raise self.failed(f"edge-worker ended with code {self._process.returncode}")
            elif time.monotonic() > deadline:
                raise self.failed(f"waited {SILENCE_S:.0f} s for {what}")

    def failed(self, what: str) -> EdgeError:
        return EdgeError(f"{what}; its last words:\n{tail(self._log)}", hint=f"read {self._log}")


def watch(line: Line, mes: Mes, lot: Lot, folder: Path, screen: Screen) -> list[float]:
    """Let the station write and show the verdicts; seconds from each file's last byte to its verdict at the MES."""
    station = Station(lot.files, folder, pace_s=PACE_S)
    board = Board(screen.console, lot.truths)
    delays_s: list[float] = []

    def show(verdict: Verdict, at: datetime) -> None:
        board.add(verdict, at)
        if (finished_at := station.finished_at.get(verdict.scan.file)) is not None:
            delays_s.append((at - finished_at).total_seconds())

    def all_judged() -> bool:
        if station.error is not None:
            raise EdgeError(f"the station cannot write its scans: {station.error}", hint="free some space")
        return len(mes.verdicts) >= len(lot.files)

    with station.writing(), board.shown():
        line.follow(all_judged, "a verdict", show)
    return delays_s


def replay(options: Options, lot: Lot) -> dict[str, float]:
    """Judge the station's folder again, against the labels; the figures that there is something to measure on."""
    out, log = options.out, options.out / "replay.log"
    command: list[str | Path] = [program("edge-worker"), "replay", out / "station", "--labels", lot.labels]
    command += ["--model", options.model, "--out", out / "replay"]
    command += ["--trusted-key", options.trusted_key] if options.trusted_key is not None else []
    with child(command, log) as process:
        try:
            code = process.wait(REPLAY_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise EdgeError(f"the replay took over {REPLAY_TIMEOUT_S:.0f} s", hint=f"read {log}") from None
    if code != 0:
        raise EdgeError(f"the replay ended with code {code}:\n{tail(log)}", hint=f"read {log}")
    for name in ("report.html", "scans.csv", "run.json"):
        shutil.copyfile(out / "replay" / name, out / name)
    metrics = json.loads((out / "replay" / "summary.json").read_text("utf-8"))["metrics"]
    return {name: value for name, value in metrics.items() if value is not None}


def check(mes: Mes, lot: Lot) -> None:
    """What the line promises whatever the model is worth; raises EdgeError."""
    outcomes = {verdict.scan.file: verdict.outcome for verdict in mes.verdicts.values()}
    if missing := sorted(set(lot.truths) - set(outcomes)):
        raise EdgeError(f"no verdict for {', '.join(missing)}", hint="read worker.log")
    if gaps := mes.missing_seqs():
        raise EdgeError(f"the MES never received the verdicts {gaps}", hint="read worker.log and broker/broker.log")
    for file, truth in lot.truths.items():
        if (outcomes[file] is Outcome.UNREADABLE) != (expected(truth) is Outcome.UNREADABLE):
            raise EdgeError(f"{file} ({truth}) was judged {outcomes[file]}", hint="read worker.log")


def summary(
    out: Path, mes: Mes, lot: Lot, delays_s: Sequence[float], metrics: Mapping[str, float]
) -> dict[str, str | Text]:
    """The closing panel, row by row."""
    outcomes = {verdict.scan.file: verdict.outcome for verdict in mes.verdicts.values()}
    labelled = [(outcomes[file], truth) for file, truth in lot.truths.items() if truth in ("normal", "abnormal")]
    alike = sum(outcome == truth for outcome, truth in labelled)
    reviewed = sum(outcome is Outcome.REVIEW for outcome, _ in labelled)
    foreign = next(outcomes[file] for file, truth in lot.truths.items() if truth == "foreign")
    accuracy, low, high = (metrics.get(f"balanced_accuracy{end}", float("nan")) for end in ("", "_low", "_high"))
    return {
        "Verdicts": tally(Counter(outcomes.values())),
        "Labels": f"{alike} of {len(labelled)} electrodes decided as labelled, {reviewed} left to a person, "
        f"{len(labelled) - alike - reviewed} decided otherwise",
        "Odd files": f"3 of 3 bad files unreadable; the foreign part: {foreign}",
        "Sequence": f"1 to {len(outcomes)} without a gap, {mes.repeats} repeats",
        "Delay": f"{statistics.median(delays_s):.1f} s from a file's last byte to the MES (median)",
        "Replay": f"balanced accuracy {accuracy:.0%} (95 % interval {low:.0%} to {high:.0%}), "
        f"escapes {metrics['escape_count']:.0f}, overkill {metrics['overkill_count']:.0f}. "
        "Simulated scans: no evidence about real electrodes.",
        "Files": f"{out}/report.html      the validation report\n"
        f"{out}/verdicts.jsonl   what the MES received\n"
        f"{out}/worker.log       what the worker logged",
        "Next": f"open {out}/report.html in a browser, then replay scans of your own:\n"
        f"{os.path.relpath(program('edge-worker'))} --model {os.path.relpath(MODEL)} replay FOLDER\n"
        f"This model knows parts of one size: others get `review` ({_known_size()})",
        "Desk": "make demo DESK=1 ends with the review desk on this evidence; or now, with an account of your own:\n"
        f"{os.path.relpath(program('edge-desk'))} user add me --role admin --config {out}/edge.toml\n"
        f"{os.path.relpath(program('edge-desk'))} run --config {out}/edge.toml",
    }


def _describe(lot: Lot) -> str:
    kinds = Counter(truth if truth in ("normal", "abnormal", "foreign") else "bad" for truth in lot.truths.values())
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _known_size() -> str:
    """Height and width of the scans that the demo's model judges."""
    limits = json.loads((MODEL / "manifest.json").read_text("utf-8"))["scan_spec"]
    (low, high), (narrow, wide) = limits["height_px"], limits["width_px"]
    return f"{low} to {high} px high, {narrow} to {wide} wide"


def _model(mes: Mes) -> str:
    return f": {mes.model.engine} {mes.model.precision}, {mes.model.id}" if mes.model else ""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the children on SIGTERM as on Ctrl-C
    sys.exit(main())
