"""The model: what is verified is what is loaded, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from edge.engines import EngineOutput
from edge.engines.choose import open_engine
from edge.engines.golden import check_golden
from edge.errors import ModelError
from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.images.residual_boxes import MapGeometry
from edge.model.manifest import signed_json
from edge.model.signed_model import SignedModel, TrustedKey, load_trusted_keys, read_model, verify_model
from edge.records import Policy, Size
from tests.support.models import SizedEngine
from tests.support.signed_models import (
    BOUNDS,
    CELL_PX,
    KEY,
    OTHER_KEY,
    SIZE,
    Content,
    make_signed_model,
    write_public_key,
)

FILES = ("manifest.json", "manifest.sig", "classifier.onnx", "gate.onnx", "golden/normal.tif", "golden/abnormal.tif")
TRUSTED = (TrustedKey("release.pub.pem", KEY.public_key()),)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_signed_model(tmp_path_factory.mktemp("pristine") / "model")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A good model to spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))


def refused(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        verify_model(folder, TRUSTED)
    assert caught.value.hint
    assert caught.value.exit_code == 78
    return caught.value


def signed_nonsense(tmp_path: Path, edit: Callable[[Content], None]) -> str:
    """The message on a model whose manifest is well signed and wrong."""
    return refused(make_signed_model(tmp_path / "nonsense", edit=edit)).message


def flip(path: Path, position: int) -> None:
    """Change one bit; a second call changes it back."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << position % 8
    path.write_bytes(data)


def test_a_signed_model_opens_with_the_key_file(folder: Path, tmp_path: Path) -> None:
    model = read_model(folder, write_public_key(tmp_path / "release.pub.pem"))
    assert model.signed_by == "release.pub.pem"
    assert model.model_id == "bright-is-abnormal"


def test_the_contents_are_the_bytes_of_the_files(folder: Path) -> None:
    model = verify_model(folder, TRUSTED)
    assert dict(model.contents) == {name: (folder / name).read_bytes() for name in FILES[2:]}
    assert model.classifier == (folder / "classifier.onnx").read_bytes()
    assert model.gate == (folder / "gate.onnx").read_bytes()


def test_the_line_finds_in_the_model_what_it_needs(folder: Path) -> None:
    model = verify_model(folder, TRUSTED)
    assert model.size == SIZE
    assert model.channels == 1
    assert (model.method, model.bounds) == (Method.GLOBAL, BOUNDS)
    assert model.policy() == Policy(0.5, 0.3, 0.2, (0.4, 0.45))
    assert model.map_geometry() == MapGeometry(CELL_PX, 0)
    spec = model.input_spec()
    assert (spec.method, spec.bounds, spec.size) == (Method.GLOBAL, Bounds(1700, 2800), Size(96, 64))
    assert spec.scan_spec.height_px == (32, 512)


def test_contents_cannot_be_replaced(folder: Path) -> None:
    model = verify_model(folder, TRUSTED)
    with pytest.raises(TypeError):
        model.contents["gate.onnx"] = b""  # type: ignore[index]


def test_a_manifest_reads_back_as_it_was_written(folder: Path) -> None:
    model = verify_model(folder, TRUSTED)
    rewritten = signed_json(model.manifest)
    assert type(model.manifest).model_validate_json(rewritten) == model.manifest


@pytest.mark.parametrize("name", FILES[2:])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_one_changed_bit_in_any_file_is_refused(folder: Path, name: str, place: float) -> None:
    path = folder / name
    flip(path, round(place * (path.stat().st_size - 1)))
    assert f"{name} was changed" in refused(folder).message


def test_one_changed_bit_anywhere_in_manifest_or_signature_is_refused(folder: Path) -> None:
    for name in FILES[:2]:
        path = folder / name
        for position in range(0, path.stat().st_size, 5):
            flip(path, position)
            message = refused(folder).message
            # A bit of the key's name inside the manifest makes it look like another signer's.
            assert "changed after signing" in message or "is signed with the key" in message
            flip(path, position)
    verify_model(folder, TRUSTED)


def test_a_model_of_another_signer_names_both_keys(tmp_path: Path) -> None:
    folder = make_signed_model(tmp_path / "model", key=OTHER_KEY)
    error = refused(folder)
    assert TrustedKey("", OTHER_KEY.public_key()).fingerprint[:16] in error.message
    assert f"release.pub.pem ({TRUSTED[0].fingerprint[:16]})" in error.message
    assert "trusted_key" in error.hint


def test_a_forged_manifest_that_names_the_trusted_key_is_refused(folder: Path) -> None:
    manifest = (folder / "manifest.json").read_bytes().replace(b'"threshold": 0.5', b'"threshold": 1.0')
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "manifest.sig").write_bytes(OTHER_KEY.sign(manifest))
    assert "changed after signing" in refused(folder).message


def test_a_model_without_signature_is_called_unsigned(folder: Path) -> None:
    (folder / "manifest.sig").unlink()
    assert "is not signed" in refused(folder).message


@pytest.mark.parametrize("signature", [b"", b"x" * 63, b"x" * 65])
def test_a_signature_of_another_length_is_refused(folder: Path, signature: bytes) -> None:
    (folder / "manifest.sig").write_bytes(signature)
    assert f"has {len(signature)} bytes, an Ed25519 signature has 64" in refused(folder).message


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert Path(name).name in refused(folder).message


@pytest.mark.parametrize("name", ["extra.onnx", ".hidden", "golden/more.tif", "classifier.onnx.data"])
def test_a_file_that_the_manifest_does_not_list_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    message = refused(folder).message
    assert repr(Path(name).name) in message
    assert "does not list" in message


def test_a_folder_that_the_manifest_does_not_list_is_refused(folder: Path) -> None:
    (folder / "golden" / "more").mkdir()
    assert "does not list" in refused(folder).message


@pytest.mark.parametrize("name", [*FILES, "golden"])
def test_a_symbolic_link_in_place_of_a_file_or_folder_is_refused(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")
    assert "is a symbolic link" in refused(folder).message


def test_the_model_itself_may_be_reached_by_a_symbolic_link(folder: Path) -> None:
    """So that an operator can switch between two models by one rename."""
    (folder.parent / "current").symlink_to(folder)
    assert verify_model(folder.parent / "current", TRUSTED).model_id == "bright-is-abnormal"


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["manifest.json", "gate.onnx"])
def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert "is not a regular file" in refused(folder).message


def test_a_file_of_another_length_is_refused_with_both_lengths(folder: Path) -> None:
    size_bytes = (folder / "gate.onnx").stat().st_size
    with (folder / "gate.onnx").open("ab") as stream:
        stream.write(b"x")
    assert f"has {size_bytes + 1} bytes, the signed manifest says {size_bytes}" in refused(folder).message


def test_a_manifest_of_unreasonable_size_is_not_read_whole(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as stream:
        stream.truncate(1 << 40)
    assert "is larger than" in refused(folder).message


def test_a_model_that_is_not_there_says_so(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere").message


def test_a_file_in_place_of_a_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"x")
    assert "is not a folder" in refused(tmp_path / "model").message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_read_permission_says_so(folder: Path) -> None:
    (folder / "gate.onnx").chmod(0)
    assert "cannot be read" in refused(folder).message


def test_files_swapped_after_verification_have_no_effect(folder: Path) -> None:
    model = verify_model(folder, TRUSTED)
    for name in FILES:
        (folder / name).write_bytes(b"something else")
    engine = open_engine(model, threads=1)
    check_golden(model, engine)
    engine.close()


def test_a_newer_schema_version_asks_for_an_update(tmp_path: Path) -> None:
    error = refused(make_signed_model(tmp_path / "model", edit=lambda content: content.update(schema_version=2)))
    assert "schema version 2, this program reads up to 1" in error.message
    assert "update the program" in error.hint


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None])
def test_an_unknown_schema_version_is_refused(tmp_path: Path, version: object) -> None:
    message = signed_nonsense(tmp_path, lambda content: content.update(schema_version=version))
    assert f"schema version {version!r}" in message


QUICK_PASS = {"p_abnormal": [[0.3, 0.7]], "gate_mean_from": 0.2, "gate_std_from": 0.1}

NONSENSE: dict[str, tuple[Callable[[Content], Any], str]] = {
    "labels swapped": (
        lambda c: c.update(labels=["abnormal", "normal"]),
        "expected ['normal', 'abnormal'] in this order",
    ),
    "bounds upside down": (lambda c: c["conversion"].update(lo_counts=2800, hi_counts=1700), "bounds 2800..1700"),
    "bounds beyond 16 bit": (lambda c: c["conversion"].update(hi_counts=70_000), "conversion.hi_counts"),
    "no bounds": (lambda c: c["conversion"].update(lo_counts=None, hi_counts=None), "expected both bounds"),
    "one bound": (lambda c: c["conversion"].update(lo_counts=None), "expected both bounds"),
    "useless bounds": (lambda c: c["conversion"].update(method="naive"), "expected no bounds"),
    "unknown method": (lambda c: c["conversion"].update(method="clever"), "conversion.method"),
    "channels": (lambda c: c["input"].update(channels=3), "input has 3 channels, conversion global makes 1"),
    "tiny input": (lambda c: c["input"].update(width_px=8), "input.width_px"),
    "not a number": (lambda c: c["policy"].update(threshold=float("nan")), "policy.threshold"),
    "threshold above 1": (lambda c: c["policy"].update(threshold=1.5), "policy.threshold"),
    "gate open to all": (lambda c: c["policy"].update(gate_mean_threshold=float("inf")), "gate_mean_threshold"),
    "int8 without a quick pass": (lambda c: c.update(precision="int8"), "precision int8 has no quick_pass"),
    "a quick pass without int8": (
        lambda c: c.update(precision="fp16", quick_pass=QUICK_PASS),
        "precision fp16 has a quick_pass, expected one for int8 and for no other",
    ),
    "quick pass of another threshold": (
        lambda c: c.update(precision="int8", quick_pass=QUICK_PASS | {"p_abnormal": [[0.3, 0.46]]}),
        "made for another policy: it is sure at its threshold",
    ),
    "quick pass of another policy": (
        lambda c: c.update(
            precision="int8", quick_pass={"p_abnormal": [[0.47, 0.7]], "gate_mean_from": 0.4, "gate_std_from": 0.3}
        ),
        "sure at its lower end of the review band, upper end, gate_mean_threshold, gate_std_threshold",
    ),
    "band upside down": (lambda c: c["policy"].update(review_band=[0.6, 0.4]), "ends before it begins"),
    "scan range upside down": (lambda c: c["scan_spec"].update(height_px=[9, 8]), "scan_spec.height_px"),
    "exposure without a limit": (
        lambda c: c["scan_spec"].update(
            exposure={"mean": [0.0] * 9, "inverse_covariance": [[0.0] * 9] * 9, "limit": -1.0}
        ),
        "scan_spec.exposure.limit",
    ),
    "exposure cut short": (
        lambda c: c["scan_spec"].update(
            exposure={"mean": [0.0] * 8, "inverse_covariance": [[0.0] * 9] * 9, "limit": 1.0}
        ),
        "scan_spec.exposure.mean",
    ),
    "edges of no width": (
        lambda c: c["scan_spec"].update(
            sharpness={"max_edge_px": [0.0, 4.0], "noise_counts": [5.0, 20.0], "fineness": [0.7, 1.3]}
        ),
        "scan_spec.sharpness.max_edge_px",
    ),
    "noise upside down": (
        lambda c: c["scan_spec"].update(
            sharpness={"max_edge_px": [4.0, 4.0], "noise_counts": [20.0, 5.0], "fineness": [0.7, 1.3]}
        ),
        "expected the lower limit first",
    ),
    "unknown precision": (lambda c: c.update(precision="fp8"), "precision"),
    "text for a number": (lambda c: c["policy"].update(threshold="0.5"), "policy.threshold"),
    "unknown field": (lambda c: c.update(note="x"), "note"),
    "missing field": (lambda c: c.pop("scan_spec"), "scan_spec"),
    "no limit of sharpness": (lambda c: c["scan_spec"].pop("sharpness"), "scan_spec.sharpness"),
    "no limit of exposure": (lambda c: c["scan_spec"].pop("exposure"), "scan_spec.exposure"),
    "no data digest": (lambda c: c.update(training={}), "not be known what the model learnt from"),
    "one golden scan": (lambda c: c["golden"].pop(), "golden"),
    "golden twice": (lambda c: c["golden"].append(c["golden"][0]), "the manifest speaks of"),
    "generous tolerance": (lambda c: c["golden"][0].update(tolerance=0.5), "tolerance"),
    "unlisted graph": (lambda c: c["files"].pop("gate.onnx"), "the manifest speaks of"),
    "path out of the model": (lambda c: c["files"].update({"../x": c["files"]["gate.onnx"]}), "files"),
    "path below": (lambda c: c["files"].update({"golden/a/b.tif": c["files"]["gate.onnx"]}), "files"),
    "absolute path": (lambda c: c["golden"][0].update(file="/etc/passwd"), "golden.0.file"),
    "naive time": (lambda c: c.update(created_at="2026-05-04T08:00:00"), "created_at"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_signed_nonsense_is_refused_and_named(tmp_path: Path, case: str) -> None:
    edit, expected = NONSENSE[case]
    assert expected in signed_nonsense(tmp_path, edit)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_signed_bytes_that_are_no_json_object_are_refused(tmp_path: Path, data: bytes) -> None:
    assert "JSON" in refused(make_signed_model(tmp_path / "model", manifest_bytes=data)).message


def test_any_key_of_a_trusted_folder_will_do(tmp_path: Path) -> None:
    folder = make_signed_model(tmp_path / "model", key=OTHER_KEY)
    keys = tmp_path / "trusted"
    keys.mkdir()
    write_public_key(keys / "a-old.pem")
    write_public_key(keys / "b-new.pem", OTHER_KEY)
    assert read_model(folder, keys).signed_by == "b-new.pem"


def key_error(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_trusted_keys(path)
    return caught.value


def test_a_folder_without_keys_trusts_nothing(tmp_path: Path) -> None:
    assert "holds no *.pem file" in key_error(tmp_path).message


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert "none.pem cannot be read: No such file" in key_error(tmp_path / "none.pem").message


@pytest.mark.parametrize("place", ["file", "folder"])
def test_keys_that_any_user_could_exchange_are_not_trusted(tmp_path: Path, place: str) -> None:
    keys = tmp_path / "trusted"
    keys.mkdir()
    write_public_key(keys / "a.pem")
    assert load_trusted_keys(keys)
    loose = keys if place == "folder" else keys / "a.pem"
    loose.chmod(0o777)
    error = key_error(keys)
    assert f"any user may write to {loose} (mode 777)" in error.message and f"chmod o-w {loose}" in error.hint
    keys.chmod(0o1777)  # as /tmp, where each may change what is his own
    (keys / "a.pem").chmod(0o644)
    assert load_trusted_keys(keys)


def test_the_mode_of_the_programs_own_files_says_nothing_of_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a mount without modes, as of a Windows disk, every file is anybody's."""
    write_public_key(tmp_path / "a.pem").chmod(0o777)
    monkeypatch.setattr("edge.model.signed_model.PROGRAM", tmp_path)
    assert load_trusted_keys(tmp_path / "a.pem")


def test_a_pipe_among_the_trusted_keys_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pem")
    assert "a.pem cannot be read: not a regular file" in key_error(tmp_path).message


def test_a_private_key_on_the_line_is_refused_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    error = key_error(path)
    assert "is a private key" in error.message
    assert "keep the private key away" in error.hint


@pytest.mark.parametrize("data", [b"", b"not a key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(data)
    assert "is not a public key in PEM form" in key_error(tmp_path).message


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    (tmp_path / "key.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert "another kind than Ed25519" in key_error(tmp_path / "key.pem").message


def scripted(model: SignedModel, **changed: float) -> SizedEngine:
    """An engine that repeats the first golden scan's scores, save for what is changed."""
    golden = model.manifest.golden[0]
    expected = {name: getattr(golden, name) for name in ("p_abnormal", "gate_mean_max", "gate_std_max")} | changed
    values = {name: np.array([value], np.float32) for name, value in expected.items()}
    output = EngineOutput(residual_map=np.zeros((1, 6, 4), np.float32), **values)
    return SizedEngine(lambda _: output, model.size, model.channels, 1)


def same_scan_twice(content: Content) -> None:
    scores = {name: content["golden"][0][name] for name in ("p_abnormal", "gate_mean_max", "gate_std_max")}
    content["golden"][1].update(scores)


def test_an_engine_that_repeats_the_golden_scores_may_judge(tmp_path: Path) -> None:
    model = verify_model(make_signed_model(tmp_path / "model", edit=same_scan_twice), TRUSTED)
    check_golden(model, scripted(model))


@pytest.mark.parametrize("name", ["p_abnormal", "gate_mean_max", "gate_std_max"])
@pytest.mark.parametrize("off", [0.002, -0.002, float("nan"), float("inf")])
def test_an_engine_that_says_something_else_may_not(tmp_path: Path, name: str, off: float) -> None:
    model = verify_model(make_signed_model(tmp_path / "model", edit=same_scan_twice), TRUSTED)
    engine = scripted(model, **{name: getattr(model.manifest.golden[0], name) + off})
    with pytest.raises(ModelError, match=rf"on scripted: {name} of golden/normal.tif is"):
        check_golden(model, engine)


def test_a_signed_golden_scan_that_is_no_scan_is_refused(tmp_path: Path) -> None:
    folder = make_signed_model(tmp_path / "model", files={"golden/normal.tif": b"II*\0 and no more"})
    model = verify_model(folder, TRUSTED)
    with pytest.raises(ModelError, match=r"golden/normal\.tif of model bright-is-abnormal cannot be read"):
        check_golden(model, scripted(model))


def test_the_digest_is_that_of_the_manifest_file(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    model = verify_model(folder, TRUSTED)
    assert len(model.digest) == 64
    assert model.digest not in json.dumps(manifest)


@pytest.mark.usefixtures("rights_hold")
def test_keys_in_a_folder_that_may_not_be_listed_are_no_missing_ones(tmp_path: Path) -> None:
    write_public_key(tmp_path / "a.pem")
    tmp_path.chmod(0o300)
    error = key_error(tmp_path)
    assert f"the trusted key {tmp_path} cannot be read: Permission denied" == error.message
