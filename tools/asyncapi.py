"""Makes the files of `edge/contract/schema/`: a JSON Schema per message and an AsyncAPI 3 document.

`make docs` writes the files; a test fails when they differ from the models. The documents are valid both as JSON Schema
draft-07, which AsyncAPI tools understand, and as 2020-12. They say what a consumer may rely on, which is less than the
models, which are strict: a consumer has to take fields and words that a later release adds.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

from edge.contract import reasons
from edge.contract.alarm_code import AlarmCode
from edge.contract.messages import MESSAGES, Message, canonical_json, open_enumeration
from edge.scans.scan import REASONS
from tools.examples import EXAMPLES

ALARMS = sorted(AlarmCode)

_WORDS: dict[str, dict[str, Sequence[str]]] = {
    "verdict": {"reasons": sorted({*REASONS, *reasons.DECISIONS})},
    "alarm": {"code": ALARMS},
    "health": {"alarms": ALARMS},
}
"""Known words of a field, by kind of message."""
LEVELS = ("root", "site", "area", "line", "station")
CONTENT_TYPE = "application/json"


def documents() -> dict[str, str]:
    """File name to text, ending in a newline."""
    schemas = {_file_name(message): _json_schema(message) for message in MESSAGES}
    texts: dict[str, dict[str, Any]] = {**schemas, "asyncapi.json": _asyncapi()}
    return {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in texts.items()}


def _file_name(message: type[Message]) -> str:
    return message.schema_id().replace("/", "-") + ".schema.json"


def _json_schema(message: type[Message]) -> dict[str, Any]:
    schema = _open(message.model_json_schema(mode="serialization"))
    words = _WORDS.get(message.KIND, {})
    for field, values in words.items():
        place = schema["properties"][field]
        place = place["items"] if place.get("type") == "array" else place
        place |= open_enumeration(values, place.pop("pattern"))
        place.pop("type")
    schema["examples"] = [json.loads(canonical_json(example)) for example in EXAMPLES if type(example) is message]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": _file_name(message), **schema}


def _open(node: Any) -> Any:
    """The schema without the models' refusal of unknown fields."""
    if isinstance(node, dict):
        return {key: _open(value) for key, value in node.items() if (key, value) != ("additionalProperties", False)}
    return [_open(value) for value in node] if isinstance(node, list) else node


def _asyncapi() -> dict[str, Any]:
    """Every channel is one the worker sends on; it subscribes to nothing."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "edge-worker",
            "version": "1.0.0",
            "description": "Verdicts on X-ray scans of electrodes, and the state of the station that gives them. "
            "Verdicts arrive at least once with identical bytes: deduplicate by verdict_id, watch seq for gaps.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {message.KIND.value: _channel(message) for message in MESSAGES},
        "operations": {f"send-{message.KIND}": _operation(message) for message in MESSAGES},
        "components": {"messages": {message.KIND.value: _message(message) for message in MESSAGES}},
    }


def _channel(message: type[Message]) -> dict[str, Any]:
    levels = "/".join(f"{{{level}}}" for level in LEVELS)
    return {
        "address": f"{levels}/inspection/{message.KIND}",
        "messages": {message.KIND.value: {"$ref": f"#/components/messages/{message.KIND}"}},
        "parameters": {level: {"description": f"topic level `{level}` of the settings"} for level in LEVELS},
    }


def _operation(message: type[Message]) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{message.KIND}"},
        "summary": (inspect.getdoc(message) or "").partition("\n\n")[0],
        "messages": [{"$ref": f"#/channels/{message.KIND}/messages/{message.KIND}"}],
        "bindings": {"mqtt": {"qos": message.QOS, "retain": message.RETAINED, "bindingVersion": "0.2.0"}},
    }


def _message(message: type[Message]) -> dict[str, Any]:
    """The MQTT 5 user properties stand where AsyncAPI keeps headers."""
    headers: dict[str, Any] = {"schema": {"type": "string", "const": message.schema_id()}}
    if "verdict_id" in message.model_fields:
        headers["verdict_id"] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
    return {
        "name": message.schema_id(),
        "contentType": CONTENT_TYPE,
        "headers": {"type": "object", "properties": headers, "required": sorted(headers)},
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-07",
            "schema": {"$ref": f"./{_file_name(message)}"},
        },
        "bindings": {"mqtt": {"payloadFormatIndicator": 1, "bindingVersion": "0.2.0"}},
    }
