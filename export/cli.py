"""`edge-export`: make a signing key, make a bundle of two checkpoints, verify a bundle, compare bundles on all engines.

`keygen` and `verify` run on the base installation, without torch and onnx.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from rich.table import Table

from edge import __version__
from edge.contract.reasons import GATE_MEAN, GATE_STD
from edge.engines import PlanSettings
from edge.engines.choose import CPU_ENGINES, open_engine
from edge.engines.golden import compare_golden, golden_scores
from edge.engines.tensorrt.open import build
from edge.errors import EdgeError
from edge.model.bundle import Bundle, open_bundle
from edge.model.manifest import ExposureSpec
from edge.pipeline.decide import decide
from edge.records import Scores
from edge.system.progress import Reporter
from export.errors import ExportError
from export.keys import DEFAULT_NAME, create_keys

log = logging.getLogger(__name__)

ENGINES: Final = (*CPU_ENGINES, "tensorrt")
"""Each has the name of the package it needs."""
_TRUSTED_HELP: Final = "public key, or a folder of them"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; errors become one line of what and one of what to try, and an exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "keygen":
            return _keygen(options)
        if options.verb in ("model", "bundle"):
            return _bundle(options)
        if options.verb == "engine":
            return _engine(options)
        if options.verb == "parity":
            return _parity(options)
        return _verify(options)
    except EdgeError as error:
        print(f"edge-export: {error.message}\n  try: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        log.critical("edge-export ended by a defect", exc_info=True)
        print(f"edge-export: {type(error).__name__}: {error}\n  try: report this with the log above", file=sys.stderr)
        return EdgeError.exit_code


def _keygen(options: argparse.Namespace) -> int:
    private_path, public_path = create_keys(options.out, options.name)
    print(f"private key  {private_path}  keep it away from the line; whoever has it can release models")
    print(f"public key   {public_path}  goes to every line that shall trust it: `model.trusted_key`")
    return 0


def _bundle(options: argparse.Namespace) -> int:
    try:
        from export.bundle import export_bundle  # needs torch and onnx
        from export.request import ExportRequest
    except ModuleNotFoundError as error:
        raise ExportError(f"making a bundle needs {error.name}", hint="pip install 'electrode-line[export]'") from error
    request = ExportRequest(
        classifier=options.classifier,
        gate=options.gate,
        golden=options.golden,
        key=options.key,
        out=options.out,
        model_id=options.model_id,
        precision=options.precision,
        storage=options.weights_storage,
        calibrate=options.calibrate,
        review_band=options.review_band and tuple(options.review_band),
    )
    with Reporter() as reporter:
        bundle = export_bundle(request, reporter)
    _print_facts(bundle)
    print(f"written: {options.out}")
    return 0


def _parity(options: argparse.Namespace) -> int:
    try:
        from export.parity_table import parity  # needs torch and onnx
    except ModuleNotFoundError as error:
        raise ExportError(f"comparing needs {error.name}", hint="pip install 'electrode-line[export]'") from error
    bundles = [open_bundle(path, options.key) for path in options.bundles]
    with _plans(options) as plans, Reporter() as reporter:
        return parity(
            bundles,
            options.scans,
            labels=options.labels,
            classifier=options.classifier,
            gate=options.gate,
            engines=options.engines or [name for name in ENGINES if find_spec(name)],
            plans=plans,
            console=_console(),
            reporter=reporter,
        )


def _verify(options: argparse.Namespace) -> int:
    bundle = open_bundle(options.bundle, options.key)
    _print_facts(bundle)
    _check_arithmetic(bundle)
    with _plans(options) as plans:
        # `auto` on a machine with a GPU would build for minutes what is thrown away afterwards.
        wants_gpu = options.engine == "tensorrt" or options.plans is not None
        engine = open_engine(bundle, options.engine, plans=plans if wants_gpu else None)
        try:
            observed = golden_scores(bundle, engine)
        finally:
            engine.close()
    _print_golden(bundle, observed, engine.spec.name)
    compare_golden(bundle, observed, engine.spec.name)
    _print_decisions(bundle, observed)
    print(f"good: {options.bundle} is whole, signed by {bundle.signed_by}, and repeats its golden scores")
    return 0


def _check_arithmetic(bundle: Bundle) -> None:
    try:
        from export.arithmetic import check_arithmetic  # needs onnx
    except ModuleNotFoundError as error:
        print(f"not checked without {error.name}: whether the graphs compute in {bundle.precision}", file=sys.stderr)
        return
    check_arithmetic(bundle)


def _engine(options: argparse.Namespace) -> int:
    bundle = open_bundle(options.bundle, options.key)
    with _plans(options) as plans:
        print(build(bundle, plans, max_batch=options.max_batch, rebuild=options.rebuild))
    return 0


@contextmanager
def _plans(options: argparse.Namespace) -> Iterator[PlanSettings]:
    """Where TensorRT's engines are kept: where the options say, else in a folder that goes away with this command."""
    with TemporaryDirectory(prefix="edge-export-plans-") as temporary:
        folder = options.plans or Path(temporary)
        yield PlanSettings(
            folder=folder,
            key_file=options.device_key or folder / "device.key",
            workspace_bytes=options.workspace_mb << 20,
            build_timeout_s=options.timeout_s,
        )


def _print_facts(bundle: Bundle) -> None:
    manifest = bundle.manifest
    policy, spec = manifest.policy, manifest.scan_spec
    bounds = bundle.bounds
    table = Table(title=f"model bundle {bundle.model_id}", show_header=False, title_justify="left")
    for name, value in (
        ("digest", bundle.digest),
        ("signed by", f"{bundle.signed_by} ({manifest.signing_key[:16]})"),
        ("created", manifest.created_at.isoformat()),
        ("input", f"{bundle.channels} x {bundle.size.height_px} x {bundle.size.width_px} px, uint8"),
        ("conversion", bundle.method + (f", {bounds.lo_counts}..{bounds.hi_counts} counts" if bounds else "")),
        ("threshold", f"{policy.threshold:g}"),
        ("review band", "off" if policy.review_band is None else "{:g}..{:g}".format(*policy.review_band)),
        ("gate thresholds", f"mean {policy.gate_mean_threshold:g}, deviation {policy.gate_std_threshold:g}"),
        ("scans", f"height {_span(spec.height_px)}, width {_span(spec.width_px)} px"),
        ("clipped at most", f"{spec.max_clipped_fraction:.2%}"),
        ("exposure", "any" if spec.exposure is None else _exposure(spec.exposure)),
        ("precision", f"{manifest.precision}, weights stored as {manifest.weights_storage}"),
        ("training data", manifest.training["data_digest"]),
        ("made with", ", ".join(f"{name} {version}" for name, version in sorted(manifest.tools.items()))),
        *((name, f"{entry.size_bytes:,} bytes") for name, entry in sorted(manifest.files.items())),
    ):
        table.add_row(name, value)
    _console().print(table)


def _print_golden(bundle: Bundle, observed: Sequence[Scores], engine: str) -> None:
    table = Table(title=f"golden scores on {engine}: observed (expected)", title_justify="left")
    for column in ("scan", "p abnormal", "gate mean", "gate deviation", "tolerance"):
        table.add_column(column)
    for golden, scores in zip(bundle.manifest.golden, observed, strict=True):
        table.add_row(
            golden.file,
            f"{scores.p_abnormal:.6f} ({golden.p_abnormal:.6f})",
            f"{scores.gate_mean_max:.6f} ({golden.gate_mean_max:.6f})",
            f"{scores.gate_std_max:.6f} ({golden.gate_std_max:.6f})",
            f"{golden.tolerance:g}",
        )
    _console().print(table)


def _print_decisions(bundle: Bundle, observed: Sequence[Scores]) -> None:
    """How the golden scans would be decided; a model whose gate refuses both is whole and yet of no use."""
    policy = bundle.policy()
    decisions = [decide(one, policy) for one in observed]
    for golden, decision in zip(bundle.manifest.golden, decisions, strict=True):
        print(f"{golden.file} would be decided: {decision.outcome} {', '.join(decision.reasons)}".rstrip())
    if all(not {GATE_MEAN, GATE_STD}.isdisjoint(decision.reasons) for decision in decisions):
        print("warning: the gate refuses all golden scans; replay labelled scans before it runs", file=sys.stderr)


def _console() -> Console:
    # Cut off by a narrow pipe, a digest would be worth nothing.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def _exposure(spec: ExposureSpec) -> str:
    return f"distance at most {spec.limit:.1f}, medians about {math.exp(spec.mean[0]):.0f} counts"


def _span(sides: tuple[int, int]) -> str:
    return f"{sides[0]}..{sides[1]}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-export", description="Turns trained networks into the signed model bundle that edge-worker runs."
    )
    parser.add_argument("--version", action="version", version=f"edge-export {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    keygen = verbs.add_parser("keygen", help="make an Ed25519 key pair for signing bundles")
    keygen.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the two PEM files")
    keygen.add_argument("--name", default=DEFAULT_NAME, help=f"their name (default: {DEFAULT_NAME})")

    bundle = verbs.add_parser(
        "model", aliases=["bundle"], help="make a signed model of two checkpoints (needs torch and onnx)"
    )
    bundle.add_argument("--classifier", type=Path, required=True, metavar="FILE", help="classifier.pt of edge-train")
    bundle.add_argument("--gate", type=Path, required=True, metavar="FILE", help="gate.pt of edge-train")
    bundle.add_argument(
        "--golden", type=Path, required=True, metavar="DIR", help="scans to choose two from, one of each label"
    )
    bundle.add_argument(
        "--signing-key", "--key", dest="key", type=Path, required=True, metavar="PEM", help="private key of keygen"
    )
    bundle.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to write; must not exist")
    bundle.add_argument("--model-id", required=True, metavar="ID", help="name of the model in every verdict")
    bundle.add_argument(
        "--weights-storage",
        choices=("fp32", "fp16", "int8"),
        help="how weights of an fp32 bundle lie in the file, 90, 45 or 23 MB; float32 in memory (default: int8)",
    )
    bundle.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="what the graphs compute in; refused where it flips a decision on the golden folder (default: fp32)",
    )
    bundle.add_argument("--calibrate", type=Path, metavar="DIR", help="scans that int8 takes its ranges from")
    bundle.add_argument(
        "--review-band",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="probabilities of abnormal that a person decides, ends included (default: as calibrated, else none)",
    )

    parity = verbs.add_parser("parity", help="bundles on all engines, and torch, over the same scans")
    parity.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="of the same checkpoints")
    parity.add_argument(
        "--trusted-key", "--key", dest="key", type=Path, required=True, metavar="PEM", help=_TRUSTED_HELP
    )
    parity.add_argument("--scans", type=Path, required=True, metavar="DIR", help="scans to judge")
    parity.add_argument("--labels", type=Path, metavar="CSV", help="their labels (default: DIR/labels.csv, if any)")
    parity.add_argument(
        "--classifier", type=Path, metavar="FILE", help="checkpoint; with --gate: torch is the reference"
    )
    parity.add_argument("--gate", type=Path, metavar="FILE", help="checkpoint of the gate")
    parity.add_argument(
        "--engines",
        nargs="+",
        choices=ENGINES,
        help="only these (default: all that are installed)",
    )
    _add_plans(parity)

    verify = verbs.add_parser("verify", help="check a bundle's signature, files and golden scores")
    verify.add_argument("bundle", type=Path, metavar="BUNDLE")
    verify.add_argument(
        "--trusted-key", "--key", dest="key", type=Path, required=True, metavar="PEM", help=_TRUSTED_HELP
    )
    verify.add_argument("--engine", default="auto", choices=("auto", *ENGINES), help="what runs it")
    _add_plans(verify)

    engine = verbs.add_parser("engine", help="build the TensorRT engine of a bundle for the GPU of this machine")
    engine.add_argument("bundle", type=Path, metavar="BUNDLE")
    engine.add_argument(
        "--trusted-key", "--key", dest="key", type=Path, required=True, metavar="PEM", help=_TRUSTED_HELP
    )
    _add_plans(engine, required=True)
    engine.add_argument(
        "--max-batch", type=int, metavar="N", help="as `model.max_batch` of the line (default: its own)"
    )
    engine.add_argument("--rebuild", action="store_true", help="build even where a good engine is stored")
    return parser


def _add_plans(verb: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Options of whatever opens TensorRT."""
    default = "" if required else " (default: a folder that is removed again)"
    verb.add_argument(
        "--plans", type=Path, required=required, metavar="DIR", help=f"`tensorrt.plans` of the line{default}"
    )
    verb.add_argument("--device-key", type=Path, metavar="FILE", help="`tensorrt.key_file` of the line")
    verb.add_argument("--workspace-mb", type=int, default=4096, metavar="N", help="GPU memory to try (default: 4096)")
    verb.add_argument("--timeout-s", type=float, default=1800.0, metavar="S", help="per network (default: 1800)")


if __name__ == "__main__":
    sys.exit(main())
