"""Values that people write into settings or commands: checked, in words that say what to write instead; and as TOML."""

from __future__ import annotations

import ipaddress
import json
import re
import unicodedata

MAX_SEQ = 2**53 - 1
"""Greatest sequence number: every reader of JSON keeps it exact, and SQLite holds it."""


def toml_value(value: object) -> str:
    """A default as TOML writes it; empty for None, which TOML cannot say."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 100_000 else str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    text = str(value)
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a TOML string


def display(value: object) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def check_expression(value: str) -> str:
    """A regular expression. Raises ValueError with what is wrong with it."""
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


MAX_LEVEL_BYTES = 1000
"""Longest topic level: MQTT takes 65,535 bytes for the whole topic, and a broker may take less."""
MAX_MQTT_TEXT_BYTES = 65_535


def check_mqtt_text(value: str) -> str:
    """A text of MQTT, which takes no control characters, and a number of bytes. Raises ValueError."""
    if any(unicodedata.category(char) == "Cc" for char in value):
        raise ValueError("holds a control character, which MQTT does not take")
    if len(value.encode()) > MAX_MQTT_TEXT_BYTES:
        raise ValueError(f"has {len(value.encode())} bytes, MQTT takes at most {MAX_MQTT_TEXT_BYTES}")
    return value


def check_topic_level(value: str) -> str:
    """One MQTT topic level: not empty, not long, no wildcard, separator, space or control character."""
    if len(value.encode()) > MAX_LEVEL_BYTES:
        raise ValueError(f"has {len(value.encode())} bytes: a topic level may have {MAX_LEVEL_BYTES}")
    if not value or re.search(r"[\s+#/$\x00-\x1f\x7f-\x9f]", value):
        raise ValueError("must be one topic level: not empty, without space, +, #, /, $ or control characters")
    return value


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(value: str) -> str:
    """The name or address of a host, and nothing around it. Raises ValueError that says what to write."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        pass
    else:
        return value
    if not re.search(r"[\s:/@\[\]]", value):
        return value
    parts = re.fullmatch(
        r"(?:(?P<scheme>[A-Za-z][\w+.-]*)://)?(?:[^@/]*@)?(?:\[(?P<address>[^\]]*)\]|(?P<name>[^:/\[\]\s]*))"
        r"(?::(?P<port>\d*))?(?:/.*)?",
        value.strip(),
    )
    name = (parts["address"] or parts["name"]) if parts is not None else ""
    if parts is None or not name:
        raise ValueError("is neither the name nor the address of a host")
    advice = f'host = "{name}"' + (f", port = {parts['port']}" if parts["port"] else "")
    if (parts["scheme"] or "").lower() in ("mqtts", "ssl", "tls"):
        advice += ", tls = true"
    raise ValueError(f"must be a name or an address alone: write {advice}")
