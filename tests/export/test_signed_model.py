"""From two checkpoints to a model the line accepts, by the commands."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge.engines.choose import open_engine
from edge.engines.golden import check_golden
from edge.errors import ModelError
from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.images.sharpness import Sharpness
from edge.model.manifest import LearntFrom, Manifest, signed_json
from edge.model.signed_model import SignedModel, read_model
from edge.records import Scores, Size
from export.cli import main
from export.errors import ExportError, ParityError
from export.golden import GOLDEN_SIDE_PX, choose_golden, shrink, tiff_bytes
from export.keys import create_keys, load_private_key
from export.parity import MAX_STORAGE_DRIFT, check_storage
from export.request import check_pair
from export.signed_model import write_model
from tests.export.networks import BOUNDS, exposure_around, make_place, model_command, write_checkpoints
from tests.support.fakes import ScriptedEngine, write_scan
from train.checkpoint import load_checkpoint
from train.errors import DataError

pytestmark = pytest.mark.timeout(600)  # torch exports two networks
SIZE = Size(96, 64)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, a key and labelled scans."""
    levels = [(1900, "normal"), (2300, "abnormal"), (2000, "normal"), (2700, "abnormal")]
    return make_place(tmp_path_factory.mktemp("workplace"), SIZE, levels)


@pytest.fixture(scope="module")
def exported(workplace: Path) -> Path:
    out = workplace / "model"
    assert main(model_command(workplace / "run", workplace, out, "--review-band", "0.4", "0.6")) == 0
    return out


@pytest.fixture(scope="module")
def public_key(workplace: Path) -> Path:
    return workplace / "keys" / "signing-key.pub.pem"


@pytest.fixture(scope="module")
def signed(exported: Path, public_key: Path) -> SignedModel:
    return read_model(exported, public_key)


def test_the_line_opens_what_was_exported_and_repeats_its_scores(signed: SignedModel) -> None:
    engine = open_engine(signed, threads=1)
    check_golden(signed, engine)
    engine.close()


def test_what_was_learnt_is_in_the_manifest(signed: SignedModel) -> None:
    manifest = signed.manifest
    assert (signed.method, signed.bounds, signed.size, signed.channels) == (Method.GLOBAL, BOUNDS, SIZE, 1)
    policy = signed.policy()
    assert (policy.threshold, policy.gate_mean_threshold, policy.gate_std_threshold) == (0.5, 0.2, 0.1)
    assert policy.review_band == (0.4, 0.6)
    assert manifest.training["data_digest"] == manifest.training["classifier_data_digest"] == "c" * 64
    assert manifest.training["gate_data_digest"] == "d" * 64
    assert json.loads(manifest.training["classifier_recipe"]) == {"epochs": 1, "weights": "none"}
    assert {"torch", "onnx", "onnxruntime", "python"} <= set(manifest.tools)
    learnt_from = LearntFrom(lots=("B01", "B02"), scans=("a" * 16, "b" * 16), pixels=("c" * 16, "d" * 16))
    assert manifest.learnt_from == learnt_from
    assert manifest.calibrated_on == LearntFrom(lots=("B03",), scans=("e" * 16,), pixels=("f" * 16,))
    assert (manifest.precision, manifest.weights_storage) == ("fp32", "int8")


def test_scans_a_little_beyond_those_learnt_from_are_in_spec(signed: SignedModel) -> None:
    spec = signed.manifest.scan_spec
    assert spec.height_px == (85, 116)
    assert spec.width_px == (57, 84)
    assert spec.max_clipped_fraction == pytest.approx(0.06)
    model = spec.exposure.model
    assert model.complaint(exposure_around(2190)) is None
    assert model.complaint(exposure_around(2190, spread=2.0)) is not None
    assert model.complaint(exposure_around(3100)) is not None
    assert spec.sharpness is not None
    focus = spec.sharpness.model
    assert focus.complaint(Sharpness(3.2, 3.4, 11.0, 0.95)) is None
    assert focus.complaint(Sharpness(6.0, 3.2, 10.5, 1.0)) is not None
    assert focus.complaint(Sharpness(3.0, 3.2, 30.0, 1.0)) is not None


def test_golden_scans_are_one_of_each_label_and_small(exported: Path, signed: SignedModel) -> None:
    normal, abnormal = signed.manifest.golden
    assert (normal.file, abnormal.file) == ("golden/normal.tif", "golden/abnormal.tif")
    levels = [float(np.median(tifffile.imread(exported / entry.file))) for entry in (normal, abnormal)]
    assert levels[0] < 2100
    assert levels[1] > 2200
    assert all(signed.manifest.files[entry.file].size_bytes < 200_000 for entry in (normal, abnormal))


def test_int8_storage_takes_a_quarter(signed: SignedModel) -> None:
    assert 22e6 < signed.manifest.files["classifier.onnx"].size_bytes < 23.5e6
    assert sum(entry.size_bytes for entry in signed.manifest.files.values()) < 45e6


def test_verify_prints_the_facts_and_both_scores(
    exported: Path, public_key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(exported), "--key", str(public_key)]) == 0
    printed = capsys.readouterr().out
    for fact in ("lively-1", "signing-key.pub.pem", "1700..2800 counts", "golden/abnormal.tif", "good:", "c" * 64):
        assert fact in printed


def test_keys_are_made_and_models_verified_without_torch_and_onnx(
    exported: Path, public_key: Path, tmp_path: Path
) -> None:
    program = f"""
import sys
sys.modules["torch"] = sys.modules["onnx"] = sys.modules["torchvision"] = None
from export.cli import main
assert main(["keygen", "--out", {str(tmp_path)!r}]) == 0
assert main(["verify", {str(exported)!r}, "--key", {str(public_key)!r}]) == 0
assert main({model_command(tmp_path / "run", tmp_path, tmp_path / "out")!r}) == 1
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "pip install 'electrode-line[export]'" in done.stderr


def test_verify_refuses_a_changed_model_with_its_exit_code(
    exported: Path, public_key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(exported, tmp_path / "model")
    data = bytearray((folder / "gate.onnx").read_bytes())
    data[1000] ^= 1
    (folder / "gate.onnx").write_bytes(data)
    assert main(["verify", str(folder), "--key", str(public_key)]) == 78
    assert "gate.onnx was changed" in capsys.readouterr().err


def test_an_existing_folder_is_never_written_over(
    workplace: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (exported / "manifest.json").read_bytes()
    assert main(model_command(workplace / "run", workplace, exported)) == 1
    assert "exists already" in capsys.readouterr().err
    assert (exported / "manifest.json").read_bytes() == before


def rewrite(signed: SignedModel, out: Path, key: Path, manifest: Manifest) -> SignedModel:
    return write_model(out, manifest, dict(signed.contents), load_private_key(key))


def test_a_model_that_does_not_repeat_its_scores_is_not_left_behind(
    workplace: Path, signed: SignedModel, tmp_path: Path
) -> None:
    wrong = signed.manifest.golden[0].model_copy(update={"gate_mean_max": 9.0})
    manifest = signed.manifest.model_copy(update={"golden": (wrong, *signed.manifest.golden[1:])})
    with pytest.raises(ModelError, match="gate_mean_max of golden"):
        rewrite(signed, tmp_path / "out", workplace / "keys" / "signing-key.pem", manifest)
    assert list(tmp_path.iterdir()) == []


def test_the_same_manifest_is_the_same_bytes(
    workplace: Path, signed: SignedModel, exported: Path, tmp_path: Path
) -> None:
    again = rewrite(signed, tmp_path / "out", workplace / "keys" / "signing-key.pem", signed.manifest)
    assert again.digest == signed.digest
    assert (exported / "manifest.json").read_bytes() == signed_json(signed.manifest)


def test_checkpoints_that_look_at_different_images_are_refused(tmp_path: Path) -> None:
    run = write_checkpoints(tmp_path / "run", SIZE, gate_bounds=Bounds(1000, 3000))
    with pytest.raises(ExportError, match="bounds"):
        check_pair(load_checkpoint(run[0], "classifier"), load_checkpoint(run[1], "gate"))


@pytest.mark.parametrize(
    "thresholds", [{"gate_mean_threshold": 0.2}, {"gate_mean_threshold": 0.2, "gate_std_threshold": float("inf")}]
)
def test_a_missing_or_senseless_threshold_is_named(tmp_path: Path, thresholds: dict[str, float]) -> None:
    run = write_checkpoints(tmp_path / "run", SIZE, gate_thresholds=thresholds)
    with pytest.raises(ExportError, match="gate_std_threshold"):
        check_pair(load_checkpoint(run[0], "classifier"), load_checkpoint(run[1], "gate"))


def test_storage_that_moves_a_score_too_far_is_refused() -> None:
    plain = [Scores(0.5, 0.1, 0.1)]
    check_storage([Scores(0.5 + MAX_STORAGE_DRIFT / 2, 0.1, 0.1)], plain, "int8")
    for moved in (Scores(0.5 + MAX_STORAGE_DRIFT * 2, 0.1, 0.1), Scores(float("nan"), 0.1, 0.1)):
        with pytest.raises(ParityError, match="storing the weights as int8"):
            check_storage([moved], plain, "int8")


def golden_of(folder: Path) -> list[str]:
    chosen = choose_golden(folder, ScriptedEngine(), method=Method.GLOBAL, bounds=Bounds(1700, 2800), threshold=0.5)
    return [f"{scan.name} {scan.scores.p_abnormal:.1f}" for scan in chosen]


def write_labelled(folder: Path, *scans: tuple[int, str]) -> None:
    rows = ["file,bundle,label"]
    for level_counts, label in scans:
        write_scan(folder / f"{level_counts}.tif", level_counts)
        rows.append(f"{level_counts}.tif,b1,{label}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def test_the_least_sure_of_the_scans_judged_right_are_golden(tmp_path: Path) -> None:
    """A score of almost 0 or 1 would stay so whatever an engine did wrong."""
    normal = [(1730, "normal"), (2030, "normal"), (2500, "normal")]
    write_labelled(tmp_path, *normal, (2780, "abnormal"), (2470, "abnormal"), (1900, "abnormal"))
    assert golden_of(tmp_path) == ["normal.tif 0.3", "abnormal.tif 0.7"]


def test_where_no_scan_is_judged_right_the_best_is_golden(tmp_path: Path) -> None:
    write_labelled(tmp_path, (2580, "normal"), (2700, "normal"), (1800, "abnormal"), (2030, "abnormal"))
    assert golden_of(tmp_path) == ["normal.tif 0.8", "abnormal.tif 0.3"]


def test_without_labels_one_scan_of_each_side_of_the_threshold_is_golden(tmp_path: Path) -> None:
    for level_counts in (1730, 2030, 2700):
        write_scan(tmp_path / f"{level_counts}.tif", level_counts)
    assert golden_of(tmp_path) == ["normal.tif 0.3", "abnormal.tif 0.9"]


def test_one_scan_is_too_few(tmp_path: Path) -> None:
    write_scan(tmp_path / "a.tif")
    with pytest.raises(ExportError, match="1 TIFF files"):
        golden_of(tmp_path)


def test_where_all_scans_are_normal_so_are_both_golden_ones(tmp_path: Path) -> None:
    """A plant's first day: the two least sure."""
    write_labelled(tmp_path, (1730, "normal"), (2030, "normal"), (1900, "normal"))
    assert golden_of(tmp_path) == ["normal.tif 0.3", "normal-2.tif 0.2"]


@pytest.mark.parametrize(
    ("label", "expected"), [("normal", "1 normal scans of 1"), ("abnormal", "0 normal scans of 1")]
)
def test_too_few_labelled_scans_are_refused(tmp_path: Path, label: str, expected: str) -> None:
    write_labelled(tmp_path, (1730, label))
    with pytest.raises(ExportError, match=expected):
        golden_of(tmp_path)


def test_an_unreadable_golden_candidate_is_named(tmp_path: Path) -> None:
    write_scan(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(b"no scan")
    with pytest.raises(ExportError, match=r"b\.tif cannot be read"):
        golden_of(tmp_path)


def test_large_scans_shrink_and_small_ones_do_not_grow() -> None:
    counts = np.full((2072, 1145), 2000, np.uint16)
    assert shrink(counts).shape == (GOLDEN_SIDE_PX, 177)
    assert (shrink(counts) == 2000).all()
    assert shrink(counts[:100, :80]).shape == (100, 80)


def test_the_same_scan_is_the_same_tiff() -> None:
    counts = np.random.default_rng(1).integers(0, 65_536, (40, 30)).astype(np.uint16)
    assert tiff_bytes(counts) == tiff_bytes(counts)


def test_a_new_private_key_is_for_its_owner_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "--out", str(tmp_path / "keys"), "--name", "release"]) == 0
    assert stat.S_IMODE((tmp_path / "keys" / "release.pem").stat().st_mode) == 0o600
    key = load_private_key(tmp_path / "keys" / "release.pem")
    assert key.public_key().public_bytes_raw()
    assert "release.pub.pem" in capsys.readouterr().out


@pytest.mark.parametrize("existing", ["signing-key.pem", "signing-key.pub.pem"])
def test_a_key_is_never_overwritten(tmp_path: Path, existing: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / existing).write_text("precious")
    assert main(["keygen", "--out", str(tmp_path)]) == 1
    assert "never overwritten" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_a_private_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    private_path, _ = create_keys(tmp_path)
    private_path.chmod(0o640)
    with pytest.raises(ExportError, match="may be read by others") as caught:
        load_private_key(private_path)
    assert "chmod 600" in caught.value.hint


def test_what_is_no_signing_key_is_refused(tmp_path: Path) -> None:
    _, public_path = create_keys(tmp_path)
    other = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "rsa.pem").write_bytes(other)
    for path in (public_path, tmp_path / "rsa.pem"):
        path.chmod(0o600)
        with pytest.raises(ExportError, match=r"is not an (unencrypted private key in PEM form|Ed25519 key)"):
            load_private_key(path)
    with pytest.raises(ExportError, match="No such file"):
        load_private_key(tmp_path / "none.pem")


def test_small_sets_that_cannot_show_int8_to_be_harmless_get_float16_and_are_told(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse_int8(_stored: object, _plain: object, storage: str) -> str:
        if storage == "int8":
            raise ParityError("storing the weights as int8 loses 1.06 points", hint="none")
        return "nothing"

    monkeypatch.setattr("export.signed_model.check_storage", refuse_int8)
    assert main(model_command(workplace / "run", workplace, tmp_path / "out")) == 0
    said = capsys.readouterr().err
    assert "loses 1.06 points; storing the weights as fp16 instead" in said
    assert "golden scans the line would decide" in said
    assert "warning: the frozen network has random weights" in said
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["weights_storage"] == "fp16"
    asked = model_command(workplace / "run", workplace, tmp_path / "asked", "--weights-storage", "int8")
    assert main(asked) == ParityError.exit_code


@pytest.mark.usefixtures("rights_hold")
@pytest.mark.parametrize("hidden", ["", "B2"])
def test_golden_scans_in_a_folder_that_may_not_be_listed_are_no_missing_ones(tmp_path: Path, hidden: str) -> None:
    for lot in ("B1", "B2"):
        (tmp_path / lot / "normal").mkdir(parents=True)
        write_scan(tmp_path / lot / "normal" / "a.tif")
    (tmp_path / hidden).chmod(0o300)
    with pytest.raises(DataError, match=f"{tmp_path / hidden} cannot be listed: Permission denied"):
        golden_of(tmp_path)
