"""What machines think of: fuzzing of the scan reader (row F1), with atheris where it is installed, and sequences (S1).

What breaks the reader is copied into tests/edge/scans/regressions/, where a test reads it from then on.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.torture.hostile import handmade, mutated
from tests.torture.trial import Skipped, Trial

MAX_RSS_MB = 512
MAX_UNIT_S = 2
RUNS_PER_SESSION = 150_000
"""Then a fresh process goes on with the corpus: the fuzzer keeps the result of every comparison of arrays it sees,
about a kilobyte a run, and would end for lack of memory."""
FORKED = ("sh", "-c", '"$@"; exit $?', "sh")
"""A fork between: a process that is started by vfork inherits its parent's peak memory (`ru_maxrss` outlives exec), and
libFuzzer would take the harness's for its own."""
REGRESSIONS = Path(__file__).parents[1] / "edge" / "scans" / "regressions"


def explore_sequences(trial: Trial) -> None:
    """S1: the hypothesis state machine of tests/system, at length."""
    examples = trial.size(20, 1000)
    command = [sys.executable, "-m", "tests.system.test_line_state_machine", str(examples)]
    done = subprocess.run(command, capture_output=True, text=True)
    trial.require(done.returncode == 0, f"a sequence of events broke a promise: {done.stderr[-400:]}")
    trial.findings.tried = examples
    trial.figures["sequences"] = examples


def fuzz_the_reader(trial: Trial) -> None:
    """F1: what coverage leads to, for half an hour in the long column: no exception but ScanError, no hang."""
    if importlib.util.find_spec("atheris") is None:
        raise Skipped("atheris is not installed (CPython 3.11 or 3.12 on x86-64); R12 mutates without it")
    corpus, artifacts = trial.root / "corpus", trial.root / "artifacts"
    for folder in (corpus, artifacts):
        folder.mkdir()
    for index, data in enumerate([*handmade(), *mutated(300, trial.seed)]):
        if len(data) < 100_000:
            (corpus / f"{index:04}").write_bytes(data)
    span_s, began_s, sessions = trial.size(20, 1800), time.monotonic(), 0
    ended_with, said = 0, ""
    while ended_with == 0 and (left_s := round(span_s - (time.monotonic() - began_s))) > 0:
        sessions += 1
        command = [*FORKED, sys.executable, "-m", "tests.torture.fuzz_child", str(corpus), f"-max_total_time={left_s}"]
        command += [f"-artifact_prefix={artifacts}/", f"-seed={trial.seed + sessions}", f"-rss_limit_mb={MAX_RSS_MB}"]
        command += [f"-timeout={MAX_UNIT_S}", f"-runs={RUNS_PER_SESSION}", "-print_final_stats=1", "-max_len=65536"]
        with (trial.root / f"fuzz-{sessions}.log").open("w+") as log:
            ended_with = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=log).returncode
            log.seek(0)
            said += log.read()
    found = sorted(artifacts.iterdir())
    trial.require(ended_with == 0, f"the fuzzer ended with {ended_with}, see fuzz-{sessions}.log: {said[-200:]}")
    trial.require(not found, f"{len(found)} inputs broke the reader: {found[:3]}")
    for file in found:
        REGRESSIONS.mkdir(exist_ok=True)
        shutil.copyfile(file, REGRESSIONS / f"{file.name}.tif")
    executions = sum(map(int, re.findall(r"number_of_executed_units:\s*(\d+)", said)))
    trial.findings.tried = executions
    trial.figures |= {
        "seconds": span_s,
        "executions": executions,
        "sessions": sessions,
        "peak_rss_mb": max(map(int, re.findall(r"peak_rss_mb:\s*(\d+)", said)), default=None),
        "edges_covered": max(map(int, re.findall(r"cov: (\d+)", said)), default=None),
    }
