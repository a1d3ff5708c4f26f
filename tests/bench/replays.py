"""Whole replays on OpenVINO in float32 and int8, in turn in one process: processor time a scan.

    python tests/bench/replays.py --out build/replays --doubtful 2
    ONEDNN_MAX_CPU_ISA=AVX2 python tests/bench/replays.py ...      # as a processor without AVX-512 and VNNI

The networks have random weights, to which all scans look alike: where N of the timed scans are to be doubtful, the
limit of doubt is put between their p. What every replay costs once, its report above all, is measured by one of few,
sure scans and taken off.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import onnx
from onnx import numpy_helper

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from edge.engines.choose import open_on_cpu  # noqa: E402
from edge.model.manifest import CLASSIFIER_FILE, FileEntry  # noqa: E402
from edge.model.signed_model import SignedModel, read_model  # noqa: E402
from edge.pipeline.loaded_model import LoadedModel, load_model  # noqa: E402
from edge.records import Size  # noqa: E402
from edge.settings import Settings, load_settings  # noqa: E402
from edge.validation.replay import ReplayOptions, check_replay, run_replay  # noqa: E402
from export.keys import load_private_key  # noqa: E402
from export.parity import engine_scores  # noqa: E402
from export.scans import converted_scans  # noqa: E402
from export.signed_model import write_model  # noqa: E402
from tests.bench import bench_model  # noqa: E402
from tests.bench.archive import Cost, spread  # noqa: E402
from train.simulator.simulate import write_lots  # noqa: E402

FEW = 2
"""Scans of the replay that shows what every replay costs."""
AGAINST = "openvino-fp32"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/replays"))
    parser.add_argument("--scans", type=int, default=16, help="beside the few of the short replay")
    parser.add_argument("--doubtful", type=int, nargs="*", default=[], help="how many of them, a model for each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="2000x1000")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    options.out = options.out.resolve()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    folder = write_lots(options.out / "scans", seed=7, lots=2, scans_per_lot=(options.scans + FEW) // 2).parent
    run = bench_model.make(options.out / "model", Size(height, width), folder)
    by_p = names_by_p(read_model(run / "int8", run / "key" / "signing-key.pub.pem"), folder)
    configs = {name: run / f"{name}.toml" for name in bench_model.ENGINES if name.startswith("openvino")}
    for count in options.doubtful:
        configs[f"openvino-int8, {count} doubtful"] = with_doubtful(run, count, by_p)
    few = linked(folder, [name for name, _ in by_p[-FEW:]], options.out / "few")
    result = in_turn(configs, few, folder, options.out / "replay", options.rounds)
    (options.out / "replays.json").write_text(json.dumps({"input": options.size, **result}, indent=2) + "\n")
    return 0


def in_turn(configs: dict[str, Path], few: Path, many: Path, out: Path, rounds: int) -> dict[str, Any]:
    """Time the replays of two folders, printed as they end; figures are (lowest, median, highest) over the rounds."""
    scans = [len(list(folder.glob("*.tif"))) for folder in (few, many)]
    models = {name: (settings := load_settings(config), load_model(settings)) for name, config in configs.items()}
    costs: dict[str, list[Cost]] = {name: [] for name in models}
    for turn in range(rounds):
        for name, (settings, model) in models.items():
            short, long = (_replay(settings, model, folder, out) for folder in (few, many))
            costs[name].append(long.less(short).over(scans[1] - scans[0]))
        print(f"round {turn + 1}:", "; ".join(f"{name} {done[-1]}" for name, done in costs.items()), flush=True)
    against = costs[AGAINST]
    figures = {
        name: {
            "busy_s_per_scan": spread([each.busy_s for each in done]),
            "wall_s_per_scan": spread([each.wall_s for each in done]),
            "busy_over_fp32": spread([a.busy_s / b.busy_s for a, b in zip(done, against, strict=True)]),
        }
        for name, done in costs.items()
    }
    kernels = os.environ.get("ONEDNN_MAX_CPU_ISA", "all of this processor")
    result = {"schema": "replays-bench/1", "scans": scans[1] - scans[0], "kernels": kernels, "replays": figures}
    print(json.dumps(result, indent=2))
    return result


def _replay(settings: Settings, model: LoadedModel, folder: Path, out: Path) -> Cost:
    """A whole replay, its report and the decoding processes included."""
    shutil.rmtree(out, ignore_errors=True)
    busy_s, started = _busy_s(), time.perf_counter()
    run_replay(check_replay(ReplayOptions(folder=folder, out=out), settings), settings, model, uuid4())
    return Cost(time.perf_counter() - started, _busy_s() - busy_s)


def _busy_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def names_by_p(model: SignedModel, folder: Path) -> list[tuple[str, float]]:
    """Names and p of scans of which none is doubtful, lowest first."""
    scans = converted_scans(folder, model.method, model.bounds, model.size)
    engine = open_on_cpu(model, "openvino")
    scores = engine_scores(engine, [scan.image for scan in scans])
    engine.close()
    pairs = [(scan.file, score.p_abnormal) for scan, score in zip(scans, scores, strict=True)]
    return sorted(pairs, key=lambda pair: pair[1])


def with_doubtful(run: Path, count: int, by_p: list[tuple[str, float]]) -> Path:
    """Settings for a copy of the int8 model that computes the `count` scans of the lowest p again."""
    key = run / "key" / "signing-key.pem"
    model = read_model(run / "int8", key.with_suffix(".pub.pem"))
    assert model.manifest.quick_pass is not None
    ((low, high),) = model.manifest.quick_pass.p_abnormal
    limit = (by_p[count - 1][1] + by_p[count][1]) / 2
    classifier = onnx.load_from_string(model.classifier)
    limits = [tensor for tensor in classifier.graph.initializer if tensor.name.startswith("doubt.")]
    (upper,) = [tensor for tensor in limits if abs(numpy_helper.to_array(tensor) - high) < 1e-3 * high]
    upper.CopyFrom(numpy_helper.from_array(np.array(limit, np.float32), upper.name))
    contents = {**model.contents, CLASSIFIER_FILE: classifier.SerializeToString()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    entries = {name: FileEntry(sha256=digests[name], size_bytes=len(data)) for name, data in contents.items()}
    where = model.manifest.quick_pass.model_copy(update={"p_abnormal": ((low, limit),)})
    manifest = model.manifest.model_copy(update={"quick_pass": where, "files": entries})
    out = run / f"int8-{count}"
    write_model(out, manifest, contents, load_private_key(key))
    config = run / f"{out.name}.toml"
    int8 = (run / "openvino-int8.toml").read_text()
    config.write_text(int8.replace(f'"{run}/int8"', f'"{out}"'))
    return config


def linked(folder: Path, names: list[str], out: Path) -> Path:
    """A folder of some of the scans, as hard links."""
    out.mkdir()
    for name in names:
        os.link(folder / name, out / name)
    return out


if __name__ == "__main__":
    sys.exit(main())
