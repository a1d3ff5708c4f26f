"""Engines built on the device, with a scripted GPU: the real code builds, seals, loads, proves, refuses and falls back.

What a real GPU adds is in tests/gpu/.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge.engines import Engine, PlanSettings, RawEngine, choose
from edge.engines.choose import open_engine
from edge.engines.tensorrt import plans
from edge.engines.tensorrt.device import INSTALL
from edge.engines.tensorrt.kernel_args import axis, raw_scan
from edge.engines.tensorrt.open import build, open_tensorrt
from edge.engines.tensorrt.plans import compile_kernels
from edge.errors import EngineError
from edge.images.method import Method
from edge.model.signed_model import SignedModel
from tests.gpu import host_kernels
from tests.support import scripted_gpu
from tests.support.signed_models import BOUNDS, SIZE, graph_bytes, nan_graph, verified_model

IMAGES = np.full((3, 1, *SIZE), 51, np.uint8)
TYPINGS = Path(__file__).parents[5] / "shared" / "typings"

pytestmark = pytest.mark.skipif(host_kernels.COMPILER is None, reason="no C++ compiler stands in for the GPU's")


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with scripted_gpu.installed():
        monkeypatch.setattr(plans, "compile_kernels", lambda _: b"cubin")
        yield monkeypatch


@pytest.fixture
def model(tmp_path: Path) -> SignedModel:
    return verified_model(tmp_path / "model")


@pytest.fixture
def settings(tmp_path: Path) -> PlanSettings:
    return PlanSettings(tmp_path / "plans", tmp_path / "state" / "device.key", 1 << 30, 60.0)


def stored(settings: PlanSettings) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in settings.folder.glob("*.plan")}


def names(settings: PlanSettings) -> list[str]:
    return sorted(name.partition("-")[0] for name in stored(settings))


def no_builds(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing was to be built")

    patch.setattr(plans.subprocess, "run", refuse)


def test_a_model_with_a_quick_pass_is_refused_before_anything_is_built(
    patch: pytest.MonkeyPatch, tmp_path: Path, settings: PlanSettings
) -> None:
    def give_quick_pass(content: dict[str, object]) -> None:
        limits = {"p_abnormal": [[0.3, 0.7]], "gate_mean_from": 0.28, "gate_std_from": 0.18}
        content.update(precision="int8", quick_pass=limits)

    no_builds(patch)
    with pytest.raises(EngineError, match="computes doubtful scans twice") as caught:
        open_tensorrt(verified_model(tmp_path / "quick", edit=give_quick_pass), settings)
    assert "--precision fp16" in caught.value.hint


def test_the_first_start_builds_and_the_next_one_loads(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    engine = open_engine(model, "auto", plans=settings)
    assert engine.spec.name == "tensorrt"
    assert engine.spec.degraded is None
    assert isinstance(engine, RawEngine)
    assert engine.infer(IMAGES).p_abnormal == pytest.approx([0.2] * 3)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.infer(IMAGES)
    assert names(settings) == ["classifier", "gate", "kernels", "timing"]
    assert [path for path in settings.folder.iterdir() if path.suffix != ".plan"] == []
    no_builds(patch)
    open_engine(model, "tensorrt", plans=settings).close()


def test_the_command_builds_and_says_where(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    assert f"is in {settings.folder}: it repeats the golden scans" in build(model, settings)
    assert names(settings) == ["classifier", "gate", "kernels", "timing"]


def test_an_upgrade_builds_anew_and_keeps_the_engine_before(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    build(model, settings)
    before = stored(settings)
    scripted_gpu.play(patch, tensorrt="12.0")
    with scripted_gpu.installed():
        build(model, settings)
    after = stored(settings)
    networks = {name for name in before if name.startswith(("gate", "classifier"))}
    assert {name: after.get(name) for name in networks} == {name: before[name] for name in networks}
    assert len(after) == len(before) + 2


@pytest.mark.parametrize(
    ("script", "message", "hint"),
    [
        ({"gpus": 0}, "CUDA finds 0 GPUs", "nvidia-smi"),
        ({"no_driver": True}, "CUDA cannot be used: cuInit failed", "/dev/nvidia"),
        ({"unsupported_layer": True}, "cannot read classifier.onnx: No importer registered for op: Wobble", "newer"),
        ({"no_memory": True}, "built no plan of classifier.onnx: .*memory could not be allocated", "workspace_bytes"),
        ({"dies": True}, "the build of classifier ended with signal 9", "out of memory"),
        ({"empty_plan": True}, "the build of classifier ended with exit code 0", "reinstall"),
        ({"wrong_scores": 0.01}, "of golden/normal.tif is", "another"),
        ({"wrong_in_batches": 0.01}, r"batch of 4: p_abnormal of golden/normal\.tif is", "another"),
        ({"no_context": True}, "no memory on the GPU to run gate", "max_batch"),
        ({"memory_bytes": 1000}, "the GPU failed at opening the engine: .*out of memory", "memory is full"),
        ({"refuses_to_run": True}, "TensorRT did not run gate on 1 images", "restart"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_fails_is_named_and_auto_goes_on_degraded(
    patch: pytest.MonkeyPatch,
    model: SignedModel,
    settings: PlanSettings,
    script: dict[str, object],
    message: str,
    hint: str,
) -> None:
    scripted_gpu.play(patch, **script)
    with pytest.raises(EngineError, match=message) as caught:
        open_engine(model, "tensorrt", plans=settings)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 70
    if len(script) == 1 and "gpus" not in script and "wrong_scores" not in script:
        return  # falling back is the same code for all: two of them are enough
    engine = open_engine(model, "auto", threads=1, plans=settings)
    assert engine.spec.name == "onnxruntime"
    assert engine.spec.degraded is not None
    assert engine.spec.degraded.startswith("TensorRT: ")
    assert engine.infer(IMAGES[:1]).p_abnormal == pytest.approx([0.2])
    engine.close()
    assert not {"gate", "classifier"} & set(names(settings)), "nothing is kept that has not proven itself"


def test_a_build_that_hangs_is_ended(patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings) -> None:
    scripted_gpu.play(patch, hangs=True)
    impatient = PlanSettings(settings.folder, settings.key_file, 1 << 30, 0.05)
    with pytest.raises(EngineError, match=r"took more than 0\.05 s and was ended") as caught:
        open_tensorrt(model, impatient)
    assert "build_timeout_s" in caught.value.hint
    assert list(settings.folder.iterdir()) == []


def test_a_changed_plan_is_never_deserialised_and_is_built_again(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    import tensorrt

    build(model, settings)
    good = stored(settings)
    (victim,) = settings.folder.glob("gate-*.plan")
    evil = victim.read_bytes()[:-1] + b"!"
    victim.write_bytes(evil)
    seen: list[bytes] = []
    deserialise = tensorrt.Runtime.deserialize_cuda_engine

    def watched(runtime: object, plan: bytes) -> object:
        seen.append(plan)
        return deserialise(runtime, plan)

    patch.setattr(tensorrt.Runtime, "deserialize_cuda_engine", watched)
    open_engine(model, "tensorrt", plans=settings).close()
    assert len(seen) == 2
    assert not any(evil.endswith(plan) for plan in seen)
    assert stored(settings)[victim.name] == good[victim.name]


def test_a_worker_that_may_not_write_refuses_a_changed_plan(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    build(model, settings)
    (victim,) = settings.folder.glob("classifier-*.plan")
    victim.write_bytes(victim.read_bytes()[:-1])
    patch.setattr(os, "access", lambda *_: False)
    no_builds(patch)
    with pytest.raises(EngineError, match="not sealed by this machine") as caught:
        open_engine(model, "tensorrt", plans=settings)
    assert "edge-engine-build.service" in caught.value.hint


def test_a_worker_that_may_not_write_says_who_builds(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    patch.setattr(os, "access", lambda *_: False)
    no_builds(patch)
    with pytest.raises(EngineError, match="no plan of classifier for Scripted RTX, driver") as caught:
        open_engine(model, "tensorrt", plans=settings)
    assert "edge-engine-build.service" in caught.value.hint


def test_a_stored_plan_that_no_longer_proves_itself_is_built_again(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    """Sealed and found, and yet wrong: a disk may lose a write, a library may change under its version."""
    scripted_gpu.play(patch, wrong_scores=0.01)
    patch.setattr("edge.engines.tensorrt.open.check_golden", lambda *_: None)
    patch.setattr("edge.engines.tensorrt.open.check_full_batch", lambda *_: None)
    build(model, settings)
    patch.undo()
    with scripted_gpu.installed(), pytest.MonkeyPatch.context() as again:
        again.setattr(plans, "compile_kernels", lambda _: b"cubin")
        engine = open_engine(model, "tensorrt", plans=settings)
        assert engine.infer(IMAGES[:1]).p_abnormal == pytest.approx([0.2])
        engine.close()


@pytest.mark.parametrize("fault", ["not created", "not set"])
def test_a_timing_cache_that_is_not_accepted_costs_no_build(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings, fault: str
) -> None:
    """As after an upgrade of TensorRT or a change of GPU that the facts do not show."""
    build(model, settings)
    for plan in settings.folder.glob("[!t]*.plan"):
        plan.unlink()
    scripted_gpu.play(patch, timing_cache=fault)
    build(model, settings)
    assert names(settings) == ["classifier", "gate", "kernels", "timing"]


def test_a_build_without_any_timing_cache_is_as_good(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    scripted_gpu.play(patch, timing_cache="never set")
    build(model, settings)
    assert names(settings) == ["classifier", "gate", "kernels"]


def nan_model(folder: Path) -> SignedModel:
    """With a gate of one NaN weight: its maximum overlooks what is not finite, `residual * 0.0` must not."""
    return verified_model(folder, files={"gate.onnx": nan_graph()})


def test_a_residual_that_is_not_finite_never_passes(
    patch: pytest.MonkeyPatch, tmp_path: Path, settings: PlanSettings
) -> None:
    patch.setattr("edge.engines.tensorrt.open.check_golden", lambda *_: None)
    patch.setattr("edge.engines.tensorrt.open.check_full_batch", lambda *_: None)
    for release, is_nan in (({}, True), ({"no_strict_nans": True}, False)):
        scripted_gpu.play(patch, **release)
        with scripted_gpu.installed():
            plans_of_release = replace(settings, folder=tmp_path / f"plans-{is_nan}")
            engine = open_tensorrt(nan_model(tmp_path / str(is_nan)), plans_of_release)
            assert np.isnan(engine.infer(IMAGES).gate_mean_max).all() == is_nan, "the release before folds 0 x to 0"
            engine.close()


@pytest.mark.parametrize(("precision", "flags"), [("fp32", ["STRICT_NANS"]), ("fp16", ["TF32", "STRICT_NANS"])])
def test_what_a_plan_may_compute_is_set_and_part_of_its_key(
    patch: pytest.MonkeyPatch, tmp_path: Path, settings: PlanSettings, precision: str, flags: list[str]
) -> None:
    model = verified_model(tmp_path / "model", edit=lambda content: content.update(precision=precision))
    build(model, settings)
    for name, data in stored(settings).items():
        if name.startswith(("classifier", "gate")):
            assert f'"flags": {json.dumps(flags)}'.encode() in data
            assert f'"arithmetic":"strict NaNs{", no TF32" if precision == "fp32" else ""}"'.encode() in data


def test_a_build_that_dies_leaves_its_last_word(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    scripted_gpu.play(patch, dies=True)
    with pytest.raises(EngineError, match=r"ended with signal 9: .* ERROR +tensorrt +message=.\[tuner\] about to die"):
        build(model, settings)


def test_a_module_in_the_working_directory_is_not_taken_for_ours(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings, tmp_path: Path
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('not ours')\n")
    patch.chdir(tmp_path)
    build(model, settings)


def test_stored_kernels_that_do_not_load_are_compiled_again_and_nothing_else(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    """The GPU has room for one engine: the one that failed is gone before the next one opens."""
    import pycuda.driver as cuda

    engine = open_tensorrt(model, settings)
    one_engine_bytes = cuda.LIVE_BYTES
    engine.close()
    before = stored(settings)
    no_builds(patch)
    scripted_gpu.play(patch, bad_cubin="cubin", memory_bytes=one_engine_bytes + 20_000)
    patch.setattr(plans, "compile_kernels", lambda _: b"cubin that loads")
    engine = open_tensorrt(model, settings)
    assert isinstance(engine, RawEngine)
    engine.close()
    after = stored(settings)
    assert [name.partition("-")[0] for name in after if after[name] != before[name]] == ["kernels"]


def test_kernels_that_never_load_leave_the_networks_on_the_gpu(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    scripted_gpu.play(patch, no_image_for_device=True)
    engine = open_tensorrt(model, settings)
    assert not isinstance(engine, RawEngine)
    assert engine.infer(IMAGES).p_abnormal == pytest.approx([0.2] * 3)
    engine.close()
    assert names(settings) == ["classifier", "gate", "timing"]


@pytest.mark.parametrize(
    "script",
    [{"memory_bytes": 1000}, {"no_context": True}, {"refuses_to_run": True}],
    ids=lambda script: next(iter(script)),
)
def test_a_gpu_that_fails_is_no_reason_to_build(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings, script: dict[str, object]
) -> None:
    build(model, settings)
    no_builds(patch)
    scripted_gpu.play(patch, **script)
    with pytest.raises(EngineError):
        open_tensorrt(model, settings)


def test_a_full_disk_leaves_the_line_on_the_cpu(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(plans.tempfile, "TemporaryDirectory", full)
    with pytest.raises(EngineError, match=r"nvcc cannot be run: .*No space left"):
        compiled(patch)
    engine = open_engine(model, "auto", threads=1, plans=settings)
    assert engine.spec.degraded is not None
    assert "cannot be built in" in engine.spec.degraded and "No space left on device" in engine.spec.degraded
    engine.close()


def compiled(patch: pytest.MonkeyPatch) -> bytes:
    patch.setattr(plans.shutil, "which", lambda *_, **__: "/usr/bin/nvcc")
    return compile_kernels("8.7")


def test_what_killed_builds_left_is_deleted_and_running_ones_are_not(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    old, new = settings.folder / ".build-killed", settings.folder / ".build-running"
    for folder in (old, new):
        (folder / "inner").mkdir(parents=True)
    (settings.folder / "gate-1.77.tmp").touch()
    for path in (old, settings.folder / "gate-1.77.tmp"):
        os.utime(path, (1000, 1000))
    build(model, settings)
    assert sorted(path.name for path in settings.folder.iterdir() if path.suffix != ".plan") == [".build-running"]


def test_a_look_builds_nothing_and_makes_nothing(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    no_builds(patch)
    look = replace(settings, may_build=False)
    with pytest.raises(EngineError, match=r"no plan of classifier for Scripted RTX, .*and this command builds none"):
        open_tensorrt(model, look)
    assert not settings.folder.exists()
    assert not settings.key_file.parent.exists()


def test_a_look_opens_what_is_stored(patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings) -> None:
    build(model, settings)
    no_builds(patch)
    open_tensorrt(model, replace(settings, may_build=False)).close()


def test_an_upgrade_whose_build_fails_leaves_the_good_engine(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    build(model, settings)
    before = stored(settings)
    scripted_gpu.play(patch, tensorrt="12.0", wrong_scores=0.01)
    with scripted_gpu.installed(), pytest.raises(EngineError):
        build(model, settings)
    after = stored(settings)
    assert {name: data for name, data in after.items() if not name.startswith("timing")} == {
        name: data for name, data in before.items() if not name.startswith("timing")
    }


def test_the_gpu_gives_the_map_of_a_classifier_that_explains_itself(
    patch: pytest.MonkeyPatch, tmp_path: Path, settings: PlanSettings
) -> None:
    engine = open_engine(verified_model(tmp_path / "explained", has_reason=True), "tensorrt", plans=settings)
    images = IMAGES.copy()
    images[1, 0, -1, -1] = 255
    output = engine.infer(images)
    engine.close()
    assert output.reason_map is not None
    odds = output.p_abnormal / (1 - output.p_abnormal)
    np.testing.assert_allclose(output.reason_map.mean(axis=(1, 2)), np.log(odds), atol=1e-4)
    assert int(output.reason_map[1].argmax()) == output.reason_map[1].size - 1


@pytest.mark.parametrize(
    ("output", "image", "message"),
    [
        ("p_normal", ["n", 1, *SIZE], r"has inputs \['image'\] and outputs \['p_normal'\], expected"),
        ("p_abnormal", ["n", 1, 32, 32], r"the manifest says image, uint8 \(-1, 1, 96, 64\)"),
    ],
    ids=["outputs", "size"],
)
def test_a_graph_of_another_form_is_refused_before_it_is_built(
    patch: pytest.MonkeyPatch, tmp_path: Path, settings: PlanSettings, output: str, image: list[str | int], message: str
) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], [output], axes=[1, 2, 3], keepdims=0),
    ]
    files = {"classifier.onnx": graph_bytes(nodes, {output: ["n"]}, image=image)}
    with pytest.raises(EngineError, match=message):
        open_tensorrt(verified_model(tmp_path / "wrong", files=files), settings)


def test_without_a_compiler_for_the_gpu_the_cpu_converts(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    def missing(_: str) -> bytes:
        raise EngineError("nvcc, which compiles the preprocessing for the GPU, is not installed", hint="install it")

    patch.setattr(plans, "compile_kernels", missing)
    engine = open_engine(model, "tensorrt", plans=settings)
    assert not isinstance(engine, RawEngine)
    assert engine.infer(IMAGES).p_abnormal == pytest.approx([0.2] * 3)
    engine.close()


def test_nvcc_is_what_compiles_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans.shutil, "which", lambda *_, **__: None)
    with pytest.raises(EngineError, match="nvcc, which compiles") as caught:
        plans.compile_kernels("8.7")
    assert "CUDA toolkit" in caught.value.hint
    done = SimpleNamespace(returncode=1, stderr="nvcc fatal   : Unsupported gpu architecture 'sm_87'\n")
    monkeypatch.setattr(plans.shutil, "which", lambda *_, **__: "/usr/bin/nvcc")
    monkeypatch.setattr(plans.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(EngineError, match="Unsupported gpu architecture 'sm_87'"):
        plans.compile_kernels("8.7")


def test_a_gpu_that_disappears_ends_the_engine(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    engine: Engine = open_engine(model, "tensorrt", plans=settings)
    scripted_gpu.play(patch, lost=True)
    with pytest.raises(EngineError, match=r"the GPU failed at a batch of 3: .*unspecified launch failure") as caught:
        engine.infer(IMAGES)
    assert caught.value.exit_code == 70
    scripted_gpu.play(patch)
    with pytest.raises(EngineError, match="closed"):
        engine.infer(IMAGES)
    engine.close()


def test_memory_of_tables_is_freed_in_the_thread_that_infers(
    patch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    """The main thread opens the engine, the worker infers: there pycuda frees only what has its context current."""
    import pycuda.driver as cuda

    from edge.engines.tensorrt import engine as trt

    patch.setattr(trt, "MAX_AXES", 64)
    engine = open_tensorrt(model, settings)
    assert isinstance(engine, RawEngine)
    scans = [
        raw_scan(np.full((90 + number, 60 + number), 2000, np.uint16), Method.GLOBAL, BOUNDS, SIZE)
        for number in range(70)
    ]
    most_bytes = cuda.LIVE_BYTES + trt.MAX_AXES * max(axis(90, side).nbytes for side in SIZE)

    def judge() -> list[float]:
        return [float(engine.infer_raw([scan]).p_abnormal[0]) for scan in scans]

    with ThreadPoolExecutor(1) as worker:
        found = worker.submit(judge).result()
    assert found == pytest.approx([found[0]] * 70, abs=1 / 255)
    assert most_bytes >= cuda.LIVE_BYTES
    engine.close()


def test_the_tables_of_the_papers_scans_fit(patch: pytest.MonkeyPatch) -> None:
    from edge.engines.tensorrt import engine as trt

    heights_px, widths_px = range(2053, 2116), range(1119, 1220)
    assert len(heights_px) + len(widths_px) <= trt.MAX_AXES


def test_a_machine_that_was_never_meant_to_have_a_gpu_is_not_degraded(
    monkeypatch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings
) -> None:
    monkeypatch.setattr(choose, "GPU_NODES", ())
    monkeypatch.setattr(choose, "find_spec", lambda _: None)
    engine = open_engine(model, "auto", threads=1, plans=settings)
    assert (engine.spec.name, engine.spec.degraded) == ("onnxruntime", None)
    engine.close()


def test_a_gpu_without_tensorrt_is_degraded_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, model: SignedModel, settings: PlanSettings, tmp_path: Path
) -> None:
    monkeypatch.setattr(choose, "GPU_NODES", (str(tmp_path),))
    engine = open_engine(model, "auto", threads=1, plans=settings)
    assert engine.spec.degraded == "TensorRT: TensorRT is not installed"
    engine.close()
    with pytest.raises(EngineError, match="TensorRT is not installed") as caught:
        open_engine(model, "tensorrt", plans=settings)
    assert caught.value.hint == INSTALL


@pytest.mark.parametrize("release", ["trt10", "trt11"])
def test_the_script_has_no_name_that_tensorrt_lacks(release: str) -> None:
    """Classes, their methods and the methods' parameters, against the signatures of the real bindings."""
    stub = TYPINGS / release / "tensorrt" / "__init__.pyi"
    if not stub.exists():
        pytest.skip("the signatures of TensorRT are not here")
    real = _classes(stub)
    for name, members in _classes(scripted_gpu.TRT_ROOM / "tensorrt" / "__init__.py").items():
        if name == "Severity":
            continue  # nested in ILogger there
        assert name in real, name
        for member, parameters in members.items():
            assert member in real[name], f"{name}.{member}"
            overloads = real[name][member]
            assert any(set(parameters[0]) <= set(given) for given in overloads), f"{name}.{member}{parameters}"


def _classes(module: Path) -> dict[str, dict[str, list[list[str]]]]:
    """Public members of each class: parameter names per overload, one empty list for an attribute."""
    found: dict[str, dict[str, list[list[str]]]] = {}
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        members = found.setdefault(node.name, {})
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                members.setdefault(item.name, []).append([arg.arg for arg in item.args.args[1:]])
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                if item.target.id not in ("graph", "profile", "cache", "largest"):  # the script's own
                    members[item.target.id] = [[]]
            elif isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
                members[item.targets[0].id] = [[]]
        members.pop("Severity", None)  # a class within the class there
    return found
