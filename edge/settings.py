"""All settings of the line, section by section, and the only place that reads the environment.

Precedence: the settings file < environment `EDGE_<SECTION>__<KEY>` < command-line flags. An unknown key or
a wrong type stops the program with the key, the value and what to write instead.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from edge.errors import SettingsError
from edge.system.names import finds_again, is_scan_name
from edge.system.text import NotUtf8, utf8_text
from edge.system.values import (
    check_expression,
    check_host,
    check_mqtt_text,
    check_topic_level,
    display,
    is_loopback,
    toml_value,
)
from edge.system.variables import PREFIX, expect_text, is_of_kubernetes, json_section, merge, suggest_setting, variable

DEFAULT_FILE = Path("/etc/edge-worker/edge.toml")
"""Read where no other file is named."""


def _not_empty(value: object) -> object:
    if value == "":  # which pathlib takes for the working directory
        raise ValueError("the path is empty: name one or leave the key out")
    return value


NamedPath = Annotated[Path, BeforeValidator(_not_empty)]
TopicLevel = Annotated[str, AfterValidator(check_topic_level)]
HostName = Annotated[str, AfterValidator(check_host)]
"""Refused here, since the name service would only say that it does not know the name."""
MqttText = Annotated[str, AfterValidator(check_mqtt_text)]
"""Refused here, since a broker hangs up at it without a word."""


class Section(BaseModel):
    """Base of the sections: unknown keys are refused, values are frozen."""

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
    rewrite_hold_s: float = Field(
        10.0,
        ge=0,
        le=3600,
        description="a file that is written again in place is read when it has stood still this long; a fifth of it "
        "where the worker saw its writer close it (local folders); `stable_for_s` where its marker was set after that",
    )
    done_suffix: str | None = Field(None, description="wait for a marker file such as `.done` beside each scan")
    after: Literal["keep", "move"] = Field("keep", description="what happens to a judged scan: `keep` or `move`")
    move_to: NamedPath | None = Field(
        None, description="where judged scans and their markers go when `after` is `move`"
    )
    max_px: int = Field(64_000_000, gt=0, le=1 << 32, description="largest scan that is read, in pixels")
    max_bytes: int = Field(268_435_456, gt=0, le=1 << 34, description="largest file that is read, in bytes")
    expected_zero_px: int = Field(
        0,
        ge=0,
        le=1 << 32,
        description="most zero samples that a finished uncompressed scan holds (dead rows, a mask, a background of "
        "zeros); where zeros stand together and there are more, the scan counts as not yet written",
    )

    @field_validator("done_suffix")
    @classmethod
    def _begins_like_a_suffix(cls, value: str | None) -> str | None:
        """Without its dot a suffix fits no file, and the line waits for markers that never come."""
        if value is not None and (not value or value[0].isalnum() or "/" in value):
            raise ValueError(f"is no suffix of a file name: write {'.' + (value.replace('/', '') or 'done')!r}")
        if value is not None and is_scan_name(value):  # else each scan would be its own marker
            raise ValueError("is the suffix of a scan, and a marker is none: write '.done'")
        return value

    @model_validator(mode="after")
    def _moves_to_another_place(self) -> FolderSettings:
        """By the names alone: asking a share whose server is gone would hang before any thread is watched.

        What links make of them the archive's thread finds out, and `check`.
        """
        if self.after != "move":
            return self
        if self.move_to is None:
            raise ValueError("`after` is 'move' but `move_to` is not set: name the folder for judged scans")
        home, target = (Path(os.path.normpath(path.absolute())) for path in (self.path, self.move_to))
        if finds_again(home, target, recursive=self.recursive):
            raise ValueError(
                f"judged scans would be moved to {target}, where the worker looks for new ones: set `move_to` to a "
                f"folder outside of {home}"
            )
        return self


class ModelSettings(Section):
    """The signed model and what runs it."""

    dir: NamedPath = Field(Path("/var/lib/edge-worker/model"), description="directory of the signed model")
    trusted_key: NamedPath | None = Field(
        None, description="public key (PEM) or folder of them; not set = only the demo model is accepted"
    )
    qualification: NamedPath | None = Field(
        None, description="folder of the record `edge-worker qualify` wrote, for `check` to look at; not set = none"
    )
    engine: Literal["auto", "onnxruntime", "openvino", "tensorrt"] = Field(
        "auto", description="what runs the networks: `auto`, `onnxruntime`, `openvino` or `tensorrt`"
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads of the engine; not set = as many as it may use"
    )
    max_batch: int | None = Field(
        None, ge=1, le=64, description="scans at a time; a CPU computes them one by one; not set = the engine's choice"
    )
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

    dir: NamedPath = Field(Path("/var/lib/edge-worker/state"), description="ledger and drop box; a local disk")
    keep_days: float = Field(30.0, gt=0, le=36_500, description="days a published verdict can be sent again")
    min_free_bytes: int = Field(268_435_456, ge=0, description="free space below which the alarm `disk-low` stands")

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.dir / "ledger.sqlite"

    @property
    def health(self) -> Path:
        """The newest health message, for the review desk."""
        return self.dir / "health.json"


class EvidenceSettings(Section):
    """Pictures for people: what is kept of a verdict beyond its message."""

    dir: NamedPath | None = Field(None, description="folder of the evidence; not set = `evidence` in `state.dir`")
    max_bytes: int = Field(
        21_474_836_480,
        ge=0,
        le=1 << 50,
        description="space for it, about 3 MB a scan of 2000 x 1000; what a person decided makes room first, then the "
        "oldest, `review` last; 0 keeps none",
    )
    min_free_bytes: int = Field(
        1_073_741_824,
        ge=0,
        description="free space below which only decided evidence makes room; without any, the new one is dropped",
    )
    sample: float = Field(
        0.01, ge=0, le=1, description="share of `normal` verdicts that keep evidence, too; 0 = none, 1 = all"
    )
    sample_seed: int = Field(0, ge=0, description="another number draws other scans into that share")
    challenge: Annotated[str, AfterValidator(check_expression)] | None = Field(
        None,
        description="regular expression searched in the file names of known scans, mixed in to measure the reader: all "
        "of them keep evidence",
    )


class BrokerSettings(Section):
    """The MQTT broker of the MES."""

    host: HostName = Field("localhost", min_length=1, description="name or address of the broker")
    port: int = Field(1883, ge=1, le=65535, description="port; 8883 is usual with TLS")
    client_id: MqttText | None = Field(
        None, description="MQTT client id; not set = `edge-worker-<station>-<hash of the topic>`"
    )
    protocol: Literal["5", "3.1.1"] = Field("5", description="3.1.1 cannot report refused messages: avoid it")
    username: MqttText | None = Field(None, description="user name")
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
    no_subscriber: Literal["keep", "delivered"] = Field(
        "keep",
        description="a verdict that the broker takes without a subscriber: `keep` it until there is one, or "
        "count it as `delivered`, for a broker whose rules alone take verdicts",
    )
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


class TopicSettings(Section):
    """Where in the unified namespace the line speaks: {root}/{site}/{area}/{line}/{station}/inspection/…"""

    root: TopicLevel = Field("enterprise", description="first topic level")
    site: TopicLevel = Field("site", description="second topic level")
    area: TopicLevel = Field("area", description="third topic level")
    line: TopicLevel = Field("line", description="fourth topic level")


class NamingSettings(Section):
    """What a file name tells."""

    pattern: str = Field(
        r"(?P<bundle>[^_/]+)_(?P<part_id>[^/]+?)\.(?i:tiff?)$",
        description="regular expression searched in the path within the folder; the group `part_id` names the part, "
        "`bundle` its lot",
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        groups = re.compile(check_expression(value)).groupindex
        if unknown := set(groups) - {"bundle", "part_id"}:
            raise ValueError(f"unknown groups {sorted(unknown)}: only `bundle` and `part_id` are used")
        if "part_id" not in groups:
            raise ValueError("has no group `part_id`, so no verdict would name its part: write (?P<part_id>...)")
        return value


class LogSettings(Section):
    """What the log says."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severity that is logged")
    format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto = text on a terminal, fields in the journal under systemd, else JSON"
    )


class DeskSettings(Section):
    """The page where a person looks and answers: `edge-desk`, a program of its own."""

    dir: NamedPath = Field(
        Path("/var/lib/edge-desk"), description="record of the answers and accounts; a local disk, the desk's own"
    )
    host: HostName = Field(
        "127.0.0.1", description="address to listen on; any but this machine's own needs a certificate", min_length=1
    )
    port: int = Field(8480, ge=1, le=65535, description="port to listen on")
    names: tuple[str, ...] = Field(
        (), description="host names that people type to reach it, such as `desk.plant.example`; others are refused"
    )
    cert_file: NamedPath | None = Field(None, description="certificate (PEM), with its chain; the page is then https")
    key_file: NamedPath | None = Field(None, description="key of the certificate (PEM)")
    blind: bool = Field(True, description="hide the line's verdict until the reader's own first answer")
    kinds: tuple[Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)], ...] = Field(
        (
            *("scratches", "lines", "edge-cuts", "edge-tensions", "smudges", "edge-ink-flow", "bubbles"),
            *("missing-ink", "agglomerate", "ink-fluctuations", "ink-entry-exit"),
        ),
        max_length=20,
        description="kinds of defects that a reader can name, in lower case with hyphens",
    )
    known_labels: NamedPath | None = Field(
        None, description="labels.csv of the known scans (`evidence.challenge`), to measure the readers by"
    )
    session_idle_s: float = Field(
        1800.0, ge=60, le=86_400, description="a reader is logged out after so long without a request"
    )

    @field_validator("names", "kinds", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        """The environment has only text: names separated by commas."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> DeskSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("`cert_file` and `key_file` belong together: set both or neither")
        if self.cert_file is None and not self.is_local:
            raise ValueError(
                f"passwords would cross the network in the clear: with `host` {self.host!r} set `cert_file` and "
                "`key_file`, or listen on 127.0.0.1"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the page."""
        return is_loopback(self.host)


class Settings(BaseSettings):
    """Every setting of `edge-worker` and `edge-desk`."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, case_sensitive=True)

    station: TopicLevel = Field("station", description="name of this station in topics, ids and sequence numbers")
    folder: FolderSettings = FolderSettings()
    model: ModelSettings = ModelSettings()
    tensorrt: TensorrtSettings = TensorrtSettings()
    state: StateSettings = StateSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    broker: BrokerSettings = BrokerSettings()
    topic: TopicSettings = TopicSettings()
    naming: NamingSettings = NamingSettings()
    desk: DeskSettings = DeskSettings()
    log: LogSettings = LogSettings()

    _file: Path | None = PrivateAttr(default=None)
    _ignored: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """One source: `load_settings` merges file, environment and flags, and tells typos from foreign variables."""
        return (init_settings,)

    @property
    def evidence_dir(self) -> Path:
        """Folder of the evidence."""
        return self.evidence.dir or self.state.dir / "evidence"

    @property
    def origin(self) -> str:
        """The file that was read, for people."""
        return str(self._file) if self._file is not None else f"no file, {DEFAULT_FILE} is not there: defaults"

    @property
    def ignored_variables(self) -> tuple[str, ...]:
        """Variables of the environment that begin with EDGE_ and belong to another program."""
        return self._ignored


@dataclass(frozen=True, slots=True)
class ServiceEnvironment:
    """What systemd and the terminal hand to the process; None outside of a service."""

    notify_socket: str | None
    credentials: Path | None
    """Folder of the secrets that the unit loads."""
    journal_stream: str | None
    """Device and inode of the standard error that journald reads, as `8:12345`."""
    has_colour: bool
    """False where NO_COLOR asks for plain text."""


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One documented key; `section` is empty for top-level keys."""

    section: str
    key: str
    default: object
    description: str


def usual_file() -> Path | None:
    """The settings file of an installation, if it has one."""
    try:
        return DEFAULT_FILE if DEFAULT_FILE.exists() else None
    except OSError:
        return DEFAULT_FILE  # load_settings tells why it cannot be read


def load_settings(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Read `config` (TOML), the environment and flags (nested like the file) into one frozen object.

    Raises SettingsError naming the key, the value and the fix.
    """
    content = {} if config is None else _file_content(config)
    variables, ignored = _environment_content()
    try:
        settings = Settings(**expect_text(merge(content, variables, flags or {})))
    except ValidationError as error:
        raise settings_error(error) from None
    settings._file = config
    settings._ignored = ignored
    return settings


def settings_to_tell(config: Path | None, flags: Mapping[str, Any]) -> Settings | None:
    """What of refused settings is needed to tell the MES: None unless station, broker and topic are named and good.

    And the state directory, whose lock says whether another worker speaks for the station.
    """
    try:
        content = {} if config is None else _file_content(config)
        every = merge(content, _environment_content()[0], flags)
        if not {"station", "broker", "topic"} <= every.keys():
            return None
        needed: dict[str, Any] = {
            name: every[name] for name in ("station", "broker", "topic", "state") if name in every
        }
        return Settings(**expect_text(needed))
    except (SettingsError, ValidationError):
        return None


def service_environment() -> ServiceEnvironment:
    """Read the variables of sd_notify(3), of systemd's credentials and journal, and NO_COLOR.

    How long the watchdog waits is the unit's affair: it is fed twice a second.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return ServiceEnvironment(
        notify_socket=os.environ.get("NOTIFY_SOCKET") or None,
        credentials=Path(credentials) if credentials else None,
        journal_stream=os.environ.get("JOURNAL_STREAM") or None,
        has_colour=not os.environ.get("NO_COLOR"),
    )


def settings_error(invalid: ValidationError) -> SettingsError:
    """The first error in an operator's words; the others are counted."""
    errors = invalid.errors(include_url=False)
    error = errors[0]
    location = [str(part) for part in error["loc"]]
    key = ".".join(location) or "settings"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if error["type"] == "extra_forbidden":
        return SettingsError(f"unknown setting `{key}` = {error['input']!r}{more}", hint=_hint_for_unknown(location))
    message = error["msg"].removeprefix("Value error, ")
    return SettingsError(
        f"setting `{key}` = {display(error['input'])}: {message}{more}",
        hint=_hint_for(location) or "correct the value in the settings file, the environment or the flag",
    )


def describe_settings() -> list[SettingRow]:
    """One row per key, in the order of the file: the source of the README's table and of the example."""
    rows = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            rows += [_row(name, key, inner) for key, inner in section.model_fields.items()]
        else:
            rows.append(_row("", name, field))
    return rows


def section_title(section: str) -> str:
    """First sentence of the section's docstring."""
    annotation = Settings.model_fields[section].annotation
    assert annotation is not None and annotation.__doc__ is not None
    return annotation.__doc__


def settings_text(values: Mapping[str, Mapping[str, object]]) -> str:
    """A settings file with every key and its meaning; `values` by section and key, all others in comments.

    Top-level keys are in section "".
    """
    lines = ["# Settings of edge-worker. Keys in comments show their defaults.", ""]
    section = ""
    for row in describe_settings():
        if row.section != section:
            section = row.section
            lines += ["", f"# {section_title(section)}", f"[{section}]"]
        value = values.get(section, {}).get(row.key)
        mark, shown = ("# ", toml_value(row.default)) if value is None else ("", toml_value(value))
        lines += [f"# {row.description}", f"{mark}{row.key} = {shown}".rstrip()]
    return "\n".join(lines) + "\n"


def _row(section: str, key: str, field: FieldInfo) -> SettingRow:
    return SettingRow(section=section, key=key, default=field.default, description=field.description or "")


def _file_content(config: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(utf8_text(config.read_bytes()))
    except FileNotFoundError:
        hint = f"make one: edge-worker init --config {config}"
        raise SettingsError(f"settings file {config} does not exist", hint=hint) from None
    except OSError as error:
        raise SettingsError(
            f"settings file {config} cannot be read: {error.strerror}", hint="check its permissions"
        ) from None
    except NotUtf8 as error:
        raise SettingsError(f"settings file {config} is {error}", hint="save it as UTF-8 in the editor") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:  # the latter: brackets in brackets
        raise SettingsError(f"settings file {config} is not TOML: {error}", hint="correct the line it names") from None


def _environment_content() -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the environment sets, nested like the file, and the variables that are none of ours.

    Raises SettingsError for a variable that looks like a misspelt setting.
    """
    keys = {variable(row.section, row.key): (row.section, row.key) for row in describe_settings()}
    sections = {variable("", name): name for name in Settings.model_fields if variable("", name) not in keys}
    present = {name.upper(): (name, value) for name, value in os.environ.items()}
    content: dict[str, Any] = {}
    ignored = []
    for upper in sorted(name for name in present if name.startswith(PREFIX)):  # a section before its keys
        name, value = present[upper]
        if upper in sections:
            content = merge(content, {sections[upper]: json_section(name, sections[upper], value)})
        elif upper in keys:
            section, key = keys[upper]
            content = merge(content, {section: {key: value}} if section else {key: value})
        elif not is_of_kubernetes(upper, present.keys()) and (hint := suggest_setting(upper, {*keys, *sections})):
            raise SettingsError(f"environment variable {name} is no setting of edge-worker", hint=hint)
        else:
            ignored.append(name)
    return content, tuple(ignored)


def _hint_for(location: list[str]) -> str | None:
    for row in describe_settings():
        if [part for part in (row.section, row.key) if part] == location:
            return f"{row.description}; default: {toml_value(row.default) or 'not set'}"
    return None


def _hint_for_unknown(location: list[str]) -> str:
    section = ".".join(location[:-1])
    siblings = {row.key for row in describe_settings() if row.section == section}
    siblings |= set(Settings.model_fields) if not section else set()
    if location[-1] != location[-1].lower() and location[-1].lower() in siblings:
        return f"write it in small letters: `{location[-1].lower()}`"
    return _did_you_mean(location[-1], siblings) or f"known here: {', '.join(sorted(siblings))}"


def _did_you_mean(name: str, known: set[str]) -> str | None:
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean `{near[0]}`?" if near else None
