"""A qualification by protocol, its signed record, and what makes it void."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import edge.model.qualification
from edge.cli import main
from edge.errors import ModelError, SettingsError
from edge.model.manifest import signed_json
from edge.model.qualification import Qualification, read_qualification, software, void_reasons
from edge.model.signed_model import load_trusted_keys, read_model
from edge.settings import FolderSettings, Settings
from edge.validation import qualify
from edge.validation.protocol import read_protocol
from edge.validation.replay import only_one_into
from tests.support.fakes import write_scan
from tests.support.signed_models import KEY, OTHER_KEY, make_signed_model, write_public_key

PLAN = """
title = "Line 2, <coating B>"
disposition = "assisted"
prepared_by = "A. Person"
valid_days = 30
[samples]
abnormal = 6
normal = 6
lots = 3
people = 2
[[claim]]
name = "at most 40 % of defective electrodes pass"
require = "escape_rate_bound<=0.4"
[[claim]]
name = "at most 40 % of good ones are rejected"
require = "false_call_rate_bound<=0.4"
"""


class Bench:
    """A set of twelve scans in three lots, a signed model that learnt from another, a key and a plan."""

    def __init__(self, root: Path, *, learnt: bytes = b"another scan") -> None:
        self.root, self.set, self.out = root, root / "set", root / "record"
        self.set.mkdir()
        lines = ["file,bundle,label_1,label_2"]
        for number in range(12):
            name, word = f"B0{number % 3 + 1}_{number:04}.tif", ("normal", "abnormal")[number % 2]
            write_scan(self.set / name, 2700 if number % 2 else 1900, seed=number)
            lines.append(f"{name},B0{number % 3 + 1},{word},{word}")
        (self.set / "labels.csv").write_text("\n".join(lines))
        if not learnt:
            learnt = (self.set / "B01_0000.tif").read_bytes()
        self.scans = (hashlib.sha256(learnt).hexdigest()[:16],)
        self.model = make_signed_model(root / "model", edit=lambda content: content.update(self.learnt_from()))
        self.trusted = write_public_key(root / "key.pub.pem")
        self.key = root / "key.pem"
        self.key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.key.chmod(0o600)
        self.plan = root / "plan.toml"
        self.plan.write_text(PLAN)

    def learnt_from(self) -> dict[str, object]:
        return {"learnt_from": {"lots": ["L7"], "scans": list(self.scans)}}

    def run(self, *more: str) -> int:
        model = ["--model", str(self.model), "--trusted-key", str(self.trusted)]
        return main(["qualify", str(self.set), "--plan", str(self.plan), *model, *more])

    def qualify(self) -> int:
        return self.run("--out", str(self.out), "--signing-key", str(self.key))

    def record(self) -> Qualification:
        return read_qualification(self.out, load_trusted_keys(self.trusted))

    def void(
        self, record: Qualification, settings: Settings | None = None, engine: str = "", age: timedelta = timedelta(0)
    ) -> list[str]:
        model = read_model(self.model, self.trusted)
        now = datetime.now(UTC) + age
        return void_reasons(record, self.out, model, engine or record.engine, settings or Settings(), now)


@pytest.fixture(scope="module")
def qualified(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One that holds; its tests leave it as it is."""
    bench = Bench(tmp_path_factory.mktemp("bench"))
    assert bench.run("--fix") == 0
    assert bench.qualify() == 0
    return bench


def test_a_set_that_is_fixed_and_claims_that_hold_make_a_signed_record(qualified: Bench) -> None:
    record = qualified.record()
    assert record.is_qualified and record.shortfalls == ()
    assert [claim.rule for claim in record.claims[:3]] == [
        "escape_rate_bound <= 0.4", "false_call_rate_bound <= 0.4", "learnt_count == 0"
    ]  # fmt: skip
    assert "calibrated_count == 0" in {claim.rule for claim in record.claims}
    assert {claim.name for claim in record.claims} >= {"abnormal scans", "lots", "people who labelled"}
    assert record.tested.files_count == 12 and record.model.id == "bright-is-abnormal"
    for name, sha256 in record.files.items():
        assert hashlib.sha256((qualified.out / name).read_bytes()).hexdigest() == sha256
    assert set(record.files) >= {"report.html", "summary.json", "verdicts.jsonl", "plan.toml", "labels.csv"}
    page = (qualified.out / "qualification.html").read_text()
    assert "✓ Qualified" in page and "Line 2, &lt;coating B&gt;" in page and "<script" not in page
    assert qualified.void(record) == []


def test_a_plan_names_its_set_once(qualified: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert qualified.run("--fix") == 78
    assert "names a set already" in capsys.readouterr().err


def test_a_record_another_key_signed_or_that_was_changed_is_refused(qualified: Bench, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="signed by another key"):
        read_qualification(qualified.out, load_trusted_keys(write_public_key(tmp_path / "other.pem", OTHER_KEY)))
    changed = (qualified.out / "qualification.json").read_bytes().replace(b'"observed": 0.0', b'"observed": 0.1')
    (tmp_path / "qualification.json").write_bytes(changed)
    (tmp_path / "qualification.sig").write_bytes((qualified.out / "qualification.sig").read_bytes())
    with pytest.raises(ModelError, match="was changed after signing"):
        read_qualification(tmp_path, load_trusted_keys(qualified.trusted))


def test_another_threshold_program_library_engine_or_setting_voids_the_record(
    qualified: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = qualified.record()
    other = record.model_copy(update={"model": record.model.model_copy(update={"threshold": 0.4, "sha256": "a" * 64})})
    assert qualified.void(other) == ["the model is another: threshold 0.5 instead of 0.4"]
    limits = Settings(folder=FolderSettings(expected_zero_px=7))
    assert qualified.void(record, limits) == ["setting folder.expected_zero_px is 7, tested was 0"]
    assert qualified.void(record, age=timedelta(days=31))[0].startswith("it was valid until ")
    assert qualified.void(record, engine="onnxruntime int8")[0].startswith("the engine is onnxruntime int8, tested was")
    here = software(record.engine)
    monkeypatch.setattr(edge.model.qualification, "software", lambda _: here | {"numpy": "0.1", "program": "f" * 64})
    first, second = qualified.void(record)
    assert first.startswith("software numpy is 0.1, tested was ")
    assert second.startswith(f"software program is {'f' * 16}, tested was ")


def test_the_program_is_known_by_every_byte_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = set()
    (tmp_path / "inner").mkdir()
    monkeypatch.setattr(edge, "__file__", str(tmp_path / "__init__.py"))
    for name, text in (("a.py", "x = 1"), ("a.py", "x = 2"), ("inner/b.j2", "x")):
        (tmp_path / name).write_text(text)
        digests.add(edge.model.qualification.program_sha256())
    assert len(digests) == 3


def test_a_report_that_was_changed_after_signing_is_named(qualified: Bench) -> None:
    report = qualified.out / "report.html"
    kept = report.read_bytes()
    report.write_bytes(kept.replace(b"0.0", b"0.1"))
    try:
        assert qualified.void(qualified.record()) == ["report.html was changed after signing"]
    finally:
        report.write_bytes(kept)


def test_check_says_whether_the_record_speaks_of_what_runs(
    qualified: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("EDGE_STATE__DIR", str(tmp_path / "state"))
    monkeypatch.setenv("EDGE_BROKER__PORT", "1")

    def row(model: Path) -> str:
        words = ["check", "--model", str(model), "--trusted-key", str(qualified.trusted)]
        main([*words, "--qualification", str(qualified.out)])
        return next(line for line in capsys.readouterr().out.splitlines() if line.split()[1:2] == ["qualification"])

    assert row(qualified.model).split()[0] == "ok"

    def retuned(content: dict[str, object]) -> None:
        policy = content["policy"]
        assert isinstance(policy, dict)
        content.update(qualified.learnt_from() | {"policy": policy | {"threshold": 0.55}})

    void = row(make_signed_model(tmp_path / "retuned", edit=retuned))
    assert void.split()[0] == "fail"
    assert "void, Line 2, <coating B>: the model is another: threshold 0.55 instead of 0.5" in void


@pytest.mark.parametrize(
    ("spoil", "shortfall"),
    [
        (lambda text: text.replace("escape_rate_bound<=0.4", "escape_rate_lots_high<0.01"), "claim not met: at most"),
        (lambda text: text.replace("lots = 3", "lots = 4"), "lots: lots_count >= 4 does not hold"),
        (lambda text: text.replace("people = 2", "people = 3"), "people who labelled: people_count >= 3"),
    ],
)
def test_what_falls_short_of_the_protocol_is_recorded_as_not_qualified(
    tmp_path: Path, spoil: Callable[[str], str], shortfall: str
) -> None:
    bench = Bench(tmp_path)
    bench.plan.write_text(spoil(PLAN))
    assert bench.run("--fix") == 0
    assert bench.qualify() == 1
    record = bench.record()
    assert not record.is_qualified and any(text.startswith(shortfall) for text in record.shortfalls)
    assert "✕ Not qualified" in (bench.out / "qualification.html").read_text()
    assert bench.void(record)[0].startswith("it says not qualified: ")


def test_a_lot_that_goes_by_two_names_is_not_counted_twice(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    labels = bench.set / "labels.csv"
    labels.write_text(labels.read_text().replace(",B01,", ",b 1,", 1))
    bench.plan.write_text(PLAN.replace("lots = 3", "lots = 4"))
    assert bench.run("--fix") == 0
    assert bench.qualify() == 1
    assert bench.record().shortfalls == (
        "no lot goes by two names that are alike: lots_alike_count == 0 does not hold",
    )


def test_a_model_that_saw_a_scan_of_the_set_is_not_qualified(tmp_path: Path) -> None:
    bench = Bench(tmp_path, learnt=b"")
    assert bench.run("--fix") == 0
    assert bench.qualify() == 1
    assert bench.record().shortfalls[0] == "This is no qualification: the model learnt from 1 scan of this folder."


@pytest.mark.parametrize("change", ["scan", "labels", "new file", "no set"])
def test_a_set_that_is_not_the_one_fixed_is_not_judged(
    tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path)
    if change != "no set":
        assert bench.run("--fix") == 0
    if change == "scan":
        write_scan(bench.set / "B01_0000.tif", 1900, seed=99)
    elif change == "new file":
        write_scan(bench.set / "B09_0000.tif", 1900, seed=99)
    elif change == "labels":
        (bench.set / "labels.csv").write_text((bench.set / "labels.csv").read_text().replace("abnormal", "normal", 1))
    assert bench.qualify() == 78
    said = capsys.readouterr().err
    expected = {"labels": "the labels are not those of the plan", "no set": "names no set"}
    assert expected.get(change, "the scans are not those of the plan") in said
    assert not bench.out.exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (PLAN.replace("disposition", "dispositon"), "dispositon"),
        (PLAN.replace("escape_rate_bound", "escape_bound"), "no figure is called 'escape_bound'"),
        (
            PLAN.replace("escape_rate_bound<=0.4", "escape_rate_bound<=0.05"),
            "takes 59 abnormal scans without one error",
        ),
        (PLAN.replace("[[claim]]", "[claim]", 1).split("[[claim]]")[0], "with two brackets"),
        (PLAN.replace("escape_rate_bound<=0.4", "escape_rate_bound<=40"), "is no share: expected 0 to 1"),
        (PLAN.replace("escape_rate_bound<=0.4", "escape_rate_bound>=0.4"), "holds for a bad model"),
        (PLAN.replace("escape_rate_bound<=0.4", "auroc_lots_low<=0.9"), "holds for a bad model"),
        (PLAN.replace("escape_rate_bound<=0.4", "stopped_a90_high>=2"), "holds for a bad model"),
        (PLAN.replace("escape_rate_bound<=0.4", "kappa_line_low<=0.5"), "holds for a bad model"),
        (PLAN.replace("escape_rate_bound<=0.4", "escape_count>=0"), "holds for a bad model"),
        (
            PLAN.replace("people = 2\n", "").replace("escape_rate_bound<=0.4", "miss_rate[1]<=0.1"),
            "plan labels of people",
        ),
        (
            PLAN.replace("lots = 3", "lots = 1").replace("escape_rate_bound<=0.4", "recall_lots_low[cut]>=0.8"),
            "two lots",
        ),
        (
            PLAN.replace("people = 2", "people = 2\nrescanned_parts = 10").replace(
                "escape_rate_bound<=0.4", "p_repeat_range_bound<=0.1"
            ),
            "rescanned_parts = 29",
        ),
        (PLAN.replace("escape_rate_bound<=0.4", "detection_rate_bound>=0.99"), "takes 299 abnormal scans"),
        (PLAN.replace("escape_rate_bound<=0.4", "escape_rate_bound<=0"), "no number of scans shows"),
        (PLAN.replace("escape_rate_bound<=0.4", "escapes_ppm<=100"), "could not be measured"),
        (PLAN.replace("escape_rate_bound<=0.4", "stopped_difference_low>=0"), "two models"),
        ("title = ", "cannot be read"),
        ("title = " + "[" * 5000, "cannot be read"),
        (PLAN.replace("abnormal = 6\n", ""), "samples.abnormal"),
        (PLAN.replace("valid_days = 30", "valid_days = 9999999"), "valid_days: Input should be less than or equal"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_before_the_set_is_fixed(
    tmp_path: Path, text: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path)
    bench.plan.write_text(text)
    assert bench.run("--fix") == 78
    assert complaint in capsys.readouterr().err


def test_two_processes_judge_to_the_record_of_one(qualified: Bench) -> None:
    out = qualified.root / "by-two"
    assert qualified.run("--out", str(out), "--signing-key", str(qualified.key), "--jobs", "2") == 0
    record = read_qualification(out, load_trusted_keys(qualified.trusted))
    assert record.claims == qualified.record().claims and record.tested == qualified.record().tested
    assert json.loads((out / "run.json").read_bytes())["workers"] == 2


def test_a_record_of_an_earlier_qualification_does_not_outlive_the_next_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.run("--fix") == 0 and bench.qualify() == 0
    (bench.model / "manifest.sig").unlink()
    assert bench.qualify() == 78  # nothing was judged: the record stands
    assert bench.record().is_qualified
    assert json.loads(signed_json(bench.record())) == json.loads((bench.out / "qualification.json").read_bytes())


def test_the_plan_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "qualification.md").read_text(encoding="utf-8")
    (tmp_path / "plan.toml").write_text(page.split("```toml")[1].split("```")[0])
    protocol = read_protocol(tmp_path / "plan.toml")
    assert protocol.samples.abnormal == 59 and len(protocol.claim) == 3
    assert protocol.plant_figures.defect_rate == 0.02
    (tmp_path / "plan.toml").write_text(page.split("```toml")[2].split("```")[0])
    assert [claim.rule.name for claim in read_protocol(tmp_path / "plan.toml").claim] == [
        "escape_rate_bound", "severity_a90_high", "false_call_rate_bound"
    ]  # fmt: skip


def test_no_replay_takes_the_folder_before_the_record_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, record = Bench(tmp_path), qualify._record
    assert bench.run("--fix") == 0

    def while_held(*given: Any) -> Qualification:
        with pytest.raises(SettingsError, match="another replay writes into"):
            only_one_into(bench.out).__enter__()
        return record(*given)

    monkeypatch.setattr(qualify, "_record", while_held)
    assert bench.qualify() == 0


@pytest.mark.parametrize("damage", [lambda text: text.replace(b"B01,", b"B\xfc1,"), lambda text: text[:-8] + b"rust"])
def test_a_set_is_not_fixed_with_labels_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    bench = Bench(tmp_path)
    labels = bench.set / "labels.csv"
    labels.write_bytes(damage(labels.read_bytes()))
    assert bench.run("--fix") == 65
    assert "labels.csv" in capsys.readouterr().err
    assert "[set]" not in bench.plan.read_text()
