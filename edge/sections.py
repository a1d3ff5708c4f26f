"""The keys of the settings, section by section: names, defaults, bounds, and what each means."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


def _not_empty(value: object) -> object:
    if value == "":  # which pathlib takes for the working directory
        raise ValueError("the path is empty: name one or leave the key out")
    return value


NamedPath = Annotated[Path, BeforeValidator(_not_empty)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FolderSettings(Section):
    """The X-ray station's folder."""

    path: NamedPath = Field(Path("/srv/xray/scans"), description="folder the station writes its scans into")
    recursive: bool = Field(False, description="also look into sub-folders")
    poll_s: float = Field(0.5, gt=0, le=60, description="longest time between two looks at the folder")
    stable_polls: int = Field(2, ge=1, le=100, description="looks in a row that must show the same size and time")
    stable_for_s: float = Field(0.2, ge=0, le=600, description="shortest time the file must have stood still")
    incomplete_after_s: float = Field(
        60.0, gt=0, le=86_400, description="a file that stays incomplete this long without change becomes `unreadable`"
    )
    done_suffix: str | None = Field(None, description="wait for a marker file such as `.done` beside each scan")
    after: Literal["keep", "move"] = Field("keep", description="what happens to a judged scan: `keep` or `move`")
    move_to: NamedPath | None = Field(
        None, description="where judged scans and their markers go when `after` is `move`"
    )
    max_px: int = Field(64_000_000, gt=0, le=1 << 32, description="largest scan that is read, in pixels")
    max_bytes: int = Field(268_435_456, gt=0, le=1 << 34, description="largest file that is read, in bytes")

    @model_validator(mode="after")
    def _move_needs_a_target(self) -> FolderSettings:
        if self.after == "move" and self.move_to is None:
            raise ValueError("`after` is 'move' but `move_to` is not set: name the folder for judged scans")
        return self

    @model_validator(mode="after")
    def _moved_scans_leave_the_folder(self) -> FolderSettings:
        """Else each moved scan is found again, judged again, and moved one level deeper, without end."""
        if self.after == "move" and self.move_to is not None:
            home, target = Path(os.path.realpath(self.path)), Path(os.path.realpath(self.move_to))
            levels = target.relative_to(home).parts if target.is_relative_to(home) else None
            # What edge/station/folder.py does not look into.
            is_hidden = levels is not None and any(level.startswith((".", "~")) for level in levels)
            if levels is not None and not is_hidden and (self.recursive or not levels):
                raise ValueError(
                    f"judged scans would be moved to {target}, where the worker looks for new ones: set `move_to` to a "
                    f"folder outside of {home}"
                )
        return self


class ModelSettings(Section):
    """The model bundle and what runs it."""

    bundle: NamedPath = Field(Path("/var/lib/edge-worker/bundle"), description="directory of the signed model bundle")
    trusted_key: NamedPath | None = Field(
        None, description="public key (PEM) or folder of them; not set = only the demo bundle is accepted"
    )
    engine: Literal["auto", "onnxruntime", "openvino", "tensorrt"] = Field(
        "auto", description="what runs the networks: `auto`, `onnxruntime`, `openvino` or `tensorrt`"
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads of the engine; not set = as many as it may use"
    )
    max_batch: int | None = Field(None, ge=1, le=64, description="scans per inference; not set = the engine's choice")
    decode_threads: int = Field(2, ge=1, le=32, description="threads that read and convert scans")


class TensorrtSettings(Section):
    """Engines that this machine builds for its NVIDIA GPU."""

    plans: NamedPath | None = Field(None, description="folder of built engines; not set = `plans` in `state.dir`")
    key_file: NamedPath | None = Field(
        None, description="key that seals them, made on first use; not set = `device.key` in `state.dir`"
    )
    workspace_bytes: int = Field(
        4_294_967_296, ge=1, le=1 << 40, description="most GPU memory that building may try, in bytes"
    )
    build_timeout_s: float = Field(1800.0, gt=0, le=86_400, description="building one network is ended after this")


class StateSettings(Section):
    """What the worker keeps."""

    dir: NamedPath = Field(Path("/var/lib/edge-worker/state"), description="ledger and quarantine; a local disk")
    keep_days: float = Field(30.0, gt=0, le=36_500, description="days a published verdict stays available for --resend")
    quarantine_max_bytes: int = Field(
        1_073_741_824, ge=0, description="space for copies of unreadable files; 0 keeps none"
    )
    min_free_bytes: int = Field(
        268_435_456,
        ge=0,
        description="free space below which the alarm `disk-low` stands and unreadable files are not copied",
    )

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.dir / "ledger.sqlite"


class BrokerSettings(Section):
    """The MQTT broker of the MES."""

    host: str = Field("localhost", min_length=1, description="name or address of the broker")
    port: int = Field(1883, ge=1, le=65535, description="port; 8883 is usual with TLS")
    client_id: str | None = Field(None, description="MQTT client id; not set = `edge-worker-<station>`")
    protocol: Literal["5", "3.1.1"] = Field("5", description="3.1.1 cannot report refused messages: avoid it")
    username: str | None = Field(None, description="user name")
    password_file: NamedPath | None = Field(None, description="file whose first line is the password")
    tls: bool = Field(False, description="encrypt and verify the broker; TLS 1.2 or newer")
    ca_file: NamedPath | None = Field(None, description="CA certificate (PEM); not set = the system's")
    cert_file: NamedPath | None = Field(None, description="client certificate (PEM)")
    key_file: NamedPath | None = Field(None, description="client key (PEM)")
    keepalive_s: int = Field(30, ge=5, le=3600, description="MQTT keep-alive")
    window: int = Field(100, ge=1, le=1000, description="verdicts in flight without acknowledgement")
    connect_timeout_s: float = Field(10.0, gt=0, le=600, description="give up one connection attempt after this")
    backoff_min_s: float = Field(0.5, gt=0, le=3600, description="shortest wait before a new connection")
    backoff_max_s: float = Field(30.0, gt=0, le=3600, description="longest wait before a new connection")
    flush_s: float = Field(5.0, ge=0, le=600, description="time given to unsent verdicts on a clean stop")

    @model_validator(mode="after")
    def _consistent(self) -> BrokerSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("`cert_file` and `key_file` belong together: set both or neither")
        if not self.tls and (self.ca_file or self.cert_file):
            raise ValueError("certificates are set but `tls` is false: set `tls = true`")
        if self.password_file is not None and self.username is None:
            raise ValueError("`password_file` is set without `username`")
        if self.backoff_min_s > self.backoff_max_s:
            raise ValueError("`backoff_min_s` is larger than `backoff_max_s`")
        return self

    def client_id_of(self, station: str) -> str:
        """The one that is set, or the station's own."""
        return self.client_id or f"edge-worker-{station}"


class TopicSettings(Section):
    """Where in the unified namespace the line speaks: {root}/{site}/{area}/{line}/{station}/inspection/…"""

    root: str = Field("enterprise", description="first topic level")
    site: str = Field("site", description="second topic level")
    area: str = Field("area", description="third topic level")
    line: str = Field("line", description="fourth topic level")

    @field_validator("root", "site", "area", "line")
    @classmethod
    def _topic_level(cls, value: str) -> str:
        return checked_topic_level(value)


class NamingSettings(Section):
    """What a file name tells."""

    pattern: str = Field(
        r"(?P<bundle>[^_/]+)_(?P<part_id>[^/]+?)\.(?i:tiff?)$",
        description="regular expression searched in the file name; groups `bundle` and `part_id`",
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            groups = re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if unknown := set(groups) - {"bundle", "part_id"}:
            raise ValueError(f"unknown groups {sorted(unknown)}: only `bundle` and `part_id` are used")
        return value


class LogSettings(Section):
    """What the log says."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severity that is logged")
    format: Literal["auto", "json", "text"] = Field("auto", description="auto = text on a terminal, else JSON")


def checked_topic_level(value: str) -> str:
    """One MQTT topic level: not empty, no wildcard, separator, space or control character."""
    if not value or re.search(r"[\s+#/$\x00-\x1f\x7f]", value):
        raise ValueError("must be one topic level: not empty, without space, +, #, /, $ or control characters")
    return value
