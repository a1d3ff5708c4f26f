"""`edge-export`: make a signing key, a model of two checkpoints, verify a model, compare models on all engines.

`keygen` and `verify` run on the base installation, without torch and onnx.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from rich.table import Table

from edge.contract.reasons import GATE_MEAN, GATE_STD
from edge.engines import PlanSettings
from edge.engines.choose import CPU_ENGINES, open_engine
from edge.engines.golden import compare_golden, golden_scores
from edge.model.manifest import ExposureSpec, QuickPass, SharpnessSpec
from edge.model.signed_model import SignedModel, read_model
from edge.pipeline.decide import decide
from edge.records import Scores
from edge.system.command import EXITS, add_file, add_folder, add_verb, new_parser, run_program
from edge.system.progress import Reporter
from export.errors import ExportError
from export.keys import DEFAULT_NAME, create_keys

PROGRAM: Final = "edge-export"
FORMATS: Final = ("fp32", "fp16", "int8")
"""Number formats of weights and of arithmetic; `export.storage` and `export.precision`, which need onnx, apply them."""
EXPORT_EXITS: Final = {
    1: "the request is refused, or a defect of this program",
    65: EXITS[65],
    66: "a checkpoint is missing, damaged, or of another kind",
    70: "an engine or a library failed, or the graphs say something else than the checkpoints",
    78: "the model is refused: damaged, not signed with that key, or of another release",
}
ENGINES: Final = (*CPU_ENGINES, "tensorrt")
"""Each has the name of the package it needs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""

    def run() -> int:
        options = _parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)

    return run_program(PROGRAM, run)


def _keygen(options: argparse.Namespace) -> int:
    private_path, public_path = create_keys(options.out, options.name)
    print(f"private key  {private_path}  keep it away from the line; who has it can release models")
    print(f"public key   {public_path}  goes to every line that shall trust it: `model.trusted_key`")
    return 0


def _model(options: argparse.Namespace) -> int:
    try:
        from export.request import ExportRequest
        from export.signed_model import export_model  # needs torch and onnx
    except ModuleNotFoundError as error:
        raise ExportError(f"making a model needs {error.name}", hint="pip install 'electrode-line[export]'") from error
    request = ExportRequest(
        classifier=options.classifier,
        gate=options.gate,
        golden=options.golden,
        key=options.signing_key,
        out=options.out,
        model_id=options.model_id,
        precision=options.precision,
        storage=options.weights_storage,
        calibrate=options.calibrate,
        review_band=options.review_band and tuple(options.review_band),
    )
    with Reporter() as reporter:
        model = export_model(request, reporter)
    _print_facts(model)
    print(f"written: {options.out}")
    return 0


def _parity(options: argparse.Namespace) -> int:
    try:
        from export.parity_table import parity  # needs torch and onnx
    except ModuleNotFoundError as error:
        raise ExportError(f"comparing needs {error.name}", hint="pip install 'electrode-line[export]'") from error
    models = [read_model(path, options.trusted_key) for path in options.models]
    with _plans(options) as plans, Reporter() as reporter:
        return parity(
            models,
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
    model = read_model(options.model, options.trusted_key)
    _print_facts(model)
    _check_arithmetic(model)
    with _plans(options) as plans:
        # `auto` on a machine with a GPU would build for minutes what is thrown away afterwards.
        wants_gpu = options.engine == "tensorrt" or options.plans is not None
        engine = open_engine(model, options.engine, plans=plans if wants_gpu else None)
        try:
            observed = golden_scores(model, engine)
        finally:
            engine.close()
    _print_golden(model, observed, engine.spec.name)
    compare_golden(model, observed, engine.spec.name)
    _print_decisions(model, observed)
    print(f"good: {options.model} is whole, signed by {model.signed_by}, and repeats its golden scores")
    return 0


def _check_arithmetic(model: SignedModel) -> None:
    try:
        from export.arithmetic import check_arithmetic  # needs onnx
    except ModuleNotFoundError as error:
        print(f"not checked without {error.name}: whether the graphs compute in {model.precision}", file=sys.stderr)
        return
    check_arithmetic(model)


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


def _print_facts(model: SignedModel) -> None:
    manifest = model.manifest
    policy, spec = manifest.policy, manifest.scan_spec
    bounds = model.bounds
    table = Table(title=f"model {model.model_id}", show_header=False, title_justify="left")
    for name, value in (
        ("digest", model.digest),
        ("signed by", f"{model.signed_by} ({manifest.signing_key[:16]})"),
        ("created", manifest.created_at.isoformat()),
        ("input", f"{model.channels} x {model.size.height_px} x {model.size.width_px} px, uint8"),
        ("conversion", model.method + (f", {bounds.lo_counts}..{bounds.hi_counts} counts" if bounds else "")),
        ("threshold", f"{policy.threshold:g}"),
        ("review band", "off" if policy.review_band is None else "{:g}..{:g}".format(*policy.review_band)),
        ("gate thresholds", f"mean {policy.gate_mean_threshold:g}, deviation {policy.gate_std_threshold:g}"),
        ("scans", f"height {_span(spec.height_px)}, width {_span(spec.width_px)} px"),
        ("clipped at most", f"{spec.max_clipped_fraction:.2%}"),
        ("exposure", _exposure(spec.exposure)),
        ("sharpness", _sharpness(spec.sharpness)),
        ("precision", f"{manifest.precision}, weights stored as {manifest.weights_storage}"),
        ("quick pass", _quick_pass(manifest.quick_pass)),
        ("training data", manifest.training["data_digest"]),
        ("made with", ", ".join(f"{name} {version}" for name, version in sorted(manifest.tools.items()))),
        *((name, f"{entry.size_bytes:,} bytes") for name, entry in sorted(manifest.files.items())),
    ):
        table.add_row(name, value)
    _console().print(table)


def _print_golden(model: SignedModel, observed: Sequence[Scores], engine: str) -> None:
    table = Table(title=f"golden scores on {engine}: observed (expected)", title_justify="left")
    for column in ("scan", "p abnormal", "gate mean", "gate deviation", "tolerance"):
        table.add_column(column)
    for golden, scores in zip(model.manifest.golden, observed, strict=True):
        table.add_row(
            golden.file,
            f"{scores.p_abnormal:.6f} ({golden.p_abnormal:.6f})",
            f"{scores.gate_mean_max:.6f} ({golden.gate_mean_max:.6f})",
            f"{scores.gate_std_max:.6f} ({golden.gate_std_max:.6f})",
            f"{golden.tolerance:g}",
        )
    _console().print(table)


def _print_decisions(model: SignedModel, observed: Sequence[Scores]) -> None:
    """How the golden scans would be decided; a model whose gate refuses both is whole and yet of no use."""
    policy = model.policy()
    decisions = [decide(one, policy) for one in observed]
    for golden, decision in zip(model.manifest.golden, decisions, strict=True):
        print(f"{golden.file} would be decided: {decision.outcome} {', '.join(decision.reasons)}".rstrip())
    if all(not {GATE_MEAN, GATE_STD}.isdisjoint(decision.reasons) for decision in decisions):
        print("warning: the gate refuses all golden scans; replay labelled scans before it runs", file=sys.stderr)


def _console() -> Console:
    # Cut off by a narrow pipe, a digest would be worth nothing.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def _exposure(spec: ExposureSpec) -> str:
    return f"distance at most {spec.limit:.1f}, medians about {math.exp(spec.mean[0]):.0f} counts"


def _sharpness(spec: SharpnessSpec) -> str:
    edge_x, edge_y = spec.max_edge_px
    return (
        f"edges at most {edge_x:.1f} px wide along x, {edge_y:.1f} px along y; "
        f"noise {spec.noise_counts[0]:.1f}..{spec.noise_counts[1]:.1f} counts, "
        f"finest share {spec.fineness[0]:.2f}..{spec.fineness[1]:.2f}"
    )


def _quick_pass(where: QuickPass | None) -> str:
    if where is None:
        return "none"
    doubtful = ", ".join(f"{low:.4f}..{high:.4f}" for low, high in where.p_abnormal)
    return f"computes again: p {doubtful}, gate mean from {where.gate_mean_from:g}, deviation {where.gate_std_from:g}"


def _span(sides: tuple[int, int]) -> str:
    return f"{sides[0]}..{sides[1]}"


def _parser() -> argparse.ArgumentParser:
    parser = new_parser(
        PROGRAM,
        "Turns trained networks into the signed model that edge-worker runs.",
        examples=(
            "edge-export keygen --out keys",
            "edge-export model --classifier run/classifier.pt --gate run/gate.pt --golden scans"
            " --signing-key keys/signing-key.pem --model-id cathode-3 --out model",
            "edge-export verify model --trusted-key keys/signing-key.pub.pem",
        ),
        exits=EXPORT_EXITS,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    keygen = add_verb(
        verbs,
        "keygen",
        "make an Ed25519 key pair for signing models",
        description="The private half stays with whom releases models, the public half goes to every line.",
        examples=("edge-export keygen --out keys", "edge-export keygen --out keys --name plant-lyon"),
        exits=_exits(),
    )
    keygen.set_defaults(command=_keygen)
    add_folder(keygen, "--out", about="folder for the two PEM files", required=True)
    keygen.add_argument("--name", default=DEFAULT_NAME, help=f"name of the two files (default: {DEFAULT_NAME})")

    model = add_verb(
        verbs,
        "model",
        "make a signed model of two checkpoints",
        description="Needs torch and onnx. Refused where the graphs do not repeat the scores of the checkpoints, or"
        " where a decision on the golden folder changes.",
        examples=(
            "edge-export model --classifier run/classifier.pt --gate run/gate.pt --golden scans"
            " --signing-key keys/signing-key.pem --model-id cathode-3 --out model",
        ),
        exits=_exits(65, 66, 78),
        aliases=("bundle",),
    )
    model.set_defaults(command=_model)
    add_file(model, "--classifier", about="classifier.pt of edge-train", required=True)
    add_file(model, "--gate", about="gate.pt of edge-train", required=True)
    add_folder(model, "--golden", about="scans to choose two from, one of each label or both normal", required=True)
    add_file(model, "--signing-key", "--key", metavar="PEM", about="private key of keygen", required=True)
    add_folder(model, "--out", about="folder to write; must not exist", required=True)
    model.add_argument("--model-id", required=True, metavar="ID", help="name of the model in every verdict")
    model.add_argument(
        "--weights-storage",
        choices=FORMATS,
        help="how weights of fp32 graphs lie in the file, 90, 45 or 23 MB; float32 in memory"
        " (default: int8, else fp16 where that loses something)",
    )
    model.add_argument(
        "--precision",
        choices=FORMATS,
        default="fp32",
        help="what the graphs compute in; int8: doubtful scans again in float32, for OpenVINO; fp16: for a GPU;"
        " refused where it flips a decision on the golden folder (default: fp32)",
    )
    add_folder(model, "--calibrate", about="scans that int8 takes its ranges from (default: none, for fp32 and fp16)")
    model.add_argument(
        "--review-band",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="probabilities of abnormal that a person decides, ends included (default: as calibrated, else none)",
    )

    verify = add_verb(
        verbs,
        "verify",
        "check a model's signature, files and golden scores",
        description="Says how the golden scans would be decided, too.",
        examples=("edge-export verify model --trusted-key keys/signing-key.pub.pem",),
        exits=_exits(78),
    )
    verify.set_defaults(command=_verify)
    add_folder(verify, "model", metavar="MODEL", about="folder of the model")
    _add_trusted_key(verify)
    verify.add_argument("--engine", default="auto", choices=("auto", *ENGINES), help="what runs it (default: auto)")
    _add_plans(verify)

    parity = add_verb(
        verbs,
        "parity",
        "compare models on all engines, and torch, over the same scans",
        examples=("edge-export parity model --trusted-key keys/signing-key.pub.pem --scans scans",),
        exits=_exits(65, 66, 78)
        | {1: "a decision flips outside the review band, accuracy is lost, an engine does not open, or a defect"},
    )
    parity.set_defaults(command=_parity)
    add_folder(parity, "models", nargs="+", metavar="MODEL", about="models of the same checkpoints")
    _add_trusted_key(parity)
    add_folder(parity, "--scans", about="scans to judge", required=True)
    add_file(parity, "--labels", metavar="CSV", about="their labels (default: labels.csv of the scans, if any)")
    add_file(parity, "--classifier", about="its checkpoint; with --gate: torch is the reference (default: no torch)")
    add_file(parity, "--gate", about="checkpoint of the gate (default: no torch)")
    parity.add_argument("--engines", nargs="+", choices=ENGINES, help="only these (default: all that are installed)")
    _add_plans(parity)
    return parser


def _exits(*codes: int) -> dict[int, str]:
    return {code: EXPORT_EXITS[code] for code in (1, 70, *codes)}


def _add_trusted_key(verb: argparse.ArgumentParser) -> None:
    add_file(
        verb,
        *("--trusted-key", "--key"),
        metavar="PEM",
        about="public key the model must be signed with, or a folder of them",
        required=True,
    )


def _add_plans(verb: argparse.ArgumentParser) -> None:
    """Options of a verb that may open TensorRT."""
    add_folder(verb, "--plans", about="`tensorrt.plans` of the line (default: a folder that is removed again)")
    add_file(verb, "--device-key", about="`tensorrt.key_file` of the line (default: device.key beside the engines)")
    verb.add_argument("--workspace-mb", type=int, default=4096, metavar="N", help="GPU memory to try (default: 4096)")
    verb.add_argument("--timeout-s", type=float, default=1800.0, metavar="S", help="per network (default: 1800)")


if __name__ == "__main__":
    sys.exit(main())
