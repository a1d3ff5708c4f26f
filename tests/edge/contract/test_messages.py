"""Messages: canonical bytes, refusal of what the schema cannot say, topics, shipped schema."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from pydantic import ValidationError

import edge
from edge.contract.messages import (
    MESSAGES,
    GateInfo,
    Kind,
    Message,
    ScanInfo,
    Topics,
    Verdict,
    canonical_json,
    finite_or_none,
    verdict_id,
)
from edge.records import Outcome
from tests.support.samples import MORNING, sample_health, sample_verdict
from tools import asyncapi
from tools.examples import BOOT_ID, EXAMPLES

SCHEMA = Path(edge.__file__).parent / "contract" / "schema"
CONTRACT_FIELDS = {
    "schema",
    "verdict_id",
    "station",
    "boot_id",
    "ledger_id",
    "seq",
    "part_id",
    "bundle",
    "scan",
    "outcome",
    "reasons",
    "detail",
    "repeats",
    "p_abnormal",
    "threshold",
    "review_band",
    "gate",
    "model",
    "times",
    "durations_ms",
    "evidence",
    "is_simulated",
}


def changed(**fields: Any) -> Verdict:
    return Verdict.model_validate({**sample_verdict().model_dump(), **fields})


def test_a_verdict_has_exactly_the_fields_of_the_contract() -> None:
    assert set(json.loads(canonical_json(sample_verdict()))) == CONTRACT_FIELDS


def test_canonical_bytes_are_sorted_compact_utf8() -> None:
    payload = canonical_json(changed(part_id="Zelle-ä"))
    plain = json.loads(payload)
    assert payload == json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert "Zelle-ä".encode() in payload


def test_canonical_bytes_survive_a_round_trip() -> None:
    for example in (*EXAMPLES, sample_health()):
        payload = canonical_json(example)
        assert canonical_json(type(example).model_validate_json(payload)) == payload


def test_times_are_utc_with_milliseconds() -> None:
    elsewhere = datetime(2026, 3, 1, 8, 0, 0, 987654, tzinfo=timezone(timedelta(hours=2)))
    times = json.loads(canonical_json(sample_verdict(decided_at=elsewhere)))["times"]
    assert times["decided_at"] == "2026-03-01T06:00:00.987Z"


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        sample_verdict(decided_at=datetime(2026, 3, 1))  # noqa: DTZ001


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1, 1.1, "0.5"])
def test_a_probability_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="p_abnormal"):
        changed(p_abnormal=value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gate_score_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="std_max"):
        GateInfo(mean_max=0.1, std_max=value, mean_threshold=None, std_threshold=None, boxes_px=())


def test_a_score_that_is_not_finite_or_out_of_range_becomes_null() -> None:
    assert finite_or_none(math.nan) is None
    assert finite_or_none(-math.inf) is None
    assert finite_or_none(1.5, 0.0, 1.0) is None
    assert finite_or_none(1.0, 0.0, 1.0) == 1.0


def test_a_normal_verdict_without_all_scores_cannot_be_made() -> None:
    with pytest.raises(ValidationError, match="normal"):
        changed(outcome=Outcome.NORMAL, p_abnormal=None)
    gate = GateInfo(mean_max=None, std_max=0.0, mean_threshold=0.1, std_threshold=0.1, boxes_px=())
    with pytest.raises(ValidationError, match="normal"):
        changed(outcome=Outcome.NORMAL, gate=gate)


def test_an_unreadable_verdict_with_scores_cannot_be_made() -> None:
    with pytest.raises(ValidationError, match="unreadable"):
        changed(outcome=Outcome.UNREADABLE, reasons=("truncated",))


def test_a_verdict_needs_a_reason_and_reasons_are_words() -> None:
    with pytest.raises(ValidationError, match="reasons"):
        changed(reasons=())
    with pytest.raises(ValidationError, match="reasons"):
        changed(reasons=("Not a word!",))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        changed(colour="red")


def test_a_verdict_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        sample_verdict().seq = 5  # type: ignore[misc]


def test_a_file_name_that_is_no_utf8_is_published_readably() -> None:
    scan = ScanInfo(
        file="scan-\udcff.tif", sha256="ab" * 32, size_bytes=1, width_px=None, height_px=None, modified_at=MORNING
    )
    assert json.loads(canonical_json(changed(scan=scan)))["scan"]["file"] == "scan-\\udcff.tif"


def test_the_verdict_id_depends_on_topic_bytes_model_and_arrival() -> None:
    ids = {
        verdict_id("a", "00" * 32, "m"),
        verdict_id("b", "00" * 32, "m"),
        verdict_id("a", "11" * 32, "m"),
        verdict_id("a", "00" * 32, "n"),
        verdict_id("a", "00" * 32, "m", ("1.tif", "")),
        verdict_id("a", "00" * 32, "m", ("2.tif", "")),
        verdict_id("a", "00" * 32, "m", ("1.tif", "last")),
    }
    assert len(ids) == 7


def test_the_verdict_id_never_changes_between_releases() -> None:
    assert verdict_id("f/s/a/l/xray-1", "ab" * 32, "cd" * 32) == "ac7e1205eec98c5f4835fd26f51fa860"
    repeated = verdict_id("f/s/a/l/xray-1", "ab" * 32, "cd" * 32, ("B01_7.tif", "ef" * 16))
    assert repeated == "dfe93ae524fdbe8e3ee612a6be755dd3"


def test_topics_follow_the_namespace() -> None:
    topics = Topics("acme", "berlin", "coating", "line2", "xray-1")
    assert topics.of(Kind.VERDICT) == "acme/berlin/coating/line2/xray-1/inspection/verdict"


@pytest.mark.parametrize("level", ["", "a b", "a+b", "#", "a/b", "$SYS", "nul\0", "new\nline"])
def test_a_topic_level_that_mqtt_would_misread_is_refused(level: str) -> None:
    with pytest.raises(ValueError, match="topic level"):
        Topics("acme", level, "coating", "line2", "xray-1")


def test_the_shipped_schema_is_the_one_of_the_models() -> None:
    """Otherwise: make docs."""
    shipped = {path.name: path.read_text(encoding="utf-8") for path in SCHEMA.glob("*.json")}
    assert shipped == asyncapi.documents()


@pytest.mark.parametrize("example", [*EXAMPLES, sample_health()], ids=lambda example: example.KIND.value)
@pytest.mark.parametrize("draft", [jsonschema.Draft7Validator, jsonschema.Draft202012Validator])
def test_an_example_satisfies_its_schema_and_a_spoilt_one_does_not(example: Message, draft: Any) -> None:
    schema = json.loads(asyncapi.documents()[example.schema_id().replace("/", "-") + ".schema.json"])
    draft.check_schema({**schema, "$schema": draft.META_SCHEMA["$schema"]})
    validator = draft(schema)
    plain = json.loads(canonical_json(example))
    validator.validate(plain)
    for field in plain:
        assert not validator.is_valid({name: value for name, value in plain.items() if name != field})
    assert validator.is_valid({**plain, "colour": "red"}), "a field that a later release may add"
    assert not validator.is_valid({**plain, "station": 7})


def schema_of(message: type[Message]) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(asyncapi.documents()[message.schema_id().replace("/", "-") + ".schema.json"])
    return schema


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.KIND.value)
def test_every_field_of_a_schema_is_described_and_examples_of_it_are_shipped(message: type[Message]) -> None:
    schema = schema_of(message)
    for part in (schema, *schema.get("$defs", {}).values()):
        for name, field in part.get("properties", {}).items():
            assert field.get("description"), f"{part['title']}.{name}"
    assert schema["examples"]
    for example in schema["examples"]:
        jsonschema.validate(example, schema)
        assert canonical_json(message.model_validate_json(json.dumps(example)))
        assert example["schema"] == message.schema_id()


def test_a_word_that_a_later_release_adds_is_no_fault_and_no_word_is() -> None:
    schema = schema_of(Verdict)
    plain = json.loads(canonical_json(sample_verdict()))
    validator = jsonschema.Draft202012Validator(schema)
    assert "gate-mean" in schema["properties"]["reasons"]["items"]["anyOf"][0]["enum"]
    assert "not-tiff" in schema["properties"]["reasons"]["items"]["anyOf"][0]["enum"]
    assert validator.is_valid({**plain, "reasons": ["classifier", "new-word"]})
    assert not validator.is_valid({**plain, "reasons": ["No Word"]})
    assert not validator.is_valid({**plain, "outcome": "maybe"}), "an outcome is not among what may be added"
    assert not validator.is_valid({**plain, "schema": "verdict/2"})


def test_asyncapi_names_every_message_with_its_delivery() -> None:
    document = json.loads(asyncapi.documents()["asyncapi.json"])
    delivery = {
        name: (operation["bindings"]["mqtt"]["qos"], operation["bindings"]["mqtt"]["retain"])
        for name, operation in document["operations"].items()
    }
    assert delivery == {
        "send-verdict": (1, False),
        "send-disposition": (1, False),
        "send-status": (1, True),
        "send-model": (1, True),
        "send-health": (0, True),
        "send-alarm": (1, False),
    }


def test_asyncapi_references_lead_somewhere() -> None:
    document = json.loads(asyncapi.documents()["asyncapi.json"])

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            found = [value for key, value in node.items() if key == "$ref"]
            return found + [reference for value in node.values() for reference in references(value)]
        return [reference for value in node for reference in references(value)] if isinstance(node, list) else []

    assert len(references(document)) == 4 * len(MESSAGES)
    for reference in references(document):
        if reference.startswith("./"):
            assert (SCHEMA / reference).is_file()
            continue
        target = document
        for key in reference.removeprefix("#/").split("/"):
            target = target[key]


def test_boot_ids_are_uuids() -> None:
    with pytest.raises(ValidationError, match="boot_id"):
        changed(boot_id="today")
    assert json.loads(canonical_json(sample_verdict()))["boot_id"] == str(UUID(int=BOOT_ID.int))
