"""All settings of the line, and the only place that reads the environment.

Precedence: `edge.toml` < environment `EDGE_<SECTION>__<KEY>` < command-line flags. An unknown key or
a wrong type stops the program with the key, the value and what to write instead.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import (
    SettingsError as EnvironmentValueError,
)

from edge.errors import SettingsError
from edge.sections import (
    BrokerSettings,
    FolderSettings,
    LogSettings,
    ModelSettings,
    NamingSettings,
    Section,
    StateSettings,
    TensorrtSettings,
    TopicSettings,
    checked_topic_level,
)

ENV_PREFIX = "EDGE_"
ENV_DELIMITER = "__"


class Settings(BaseSettings):
    """Every setting of `edge-worker`."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_DELIMITER
    )

    station: str = Field("station", description="name of this station in topics, ids and sequence numbers")
    folder: FolderSettings = FolderSettings()
    model: ModelSettings = ModelSettings()
    tensorrt: TensorrtSettings = TensorrtSettings()
    state: StateSettings = StateSettings()
    broker: BrokerSettings = BrokerSettings()
    topic: TopicSettings = TopicSettings()
    naming: NamingSettings = NamingSettings()
    log: LogSettings = LogSettings()

    @field_validator("station")
    @classmethod
    def _topic_level(cls, value: str) -> str:
        return checked_topic_level(value)


@dataclass(frozen=True, slots=True)
class ServiceEnvironment:
    """What systemd hands to a service; None outside of one."""

    notify_socket: str | None
    credentials: Path | None
    """Folder of the secrets that the unit loads."""


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One documented key; `section` is empty for top-level keys."""

    section: str
    key: str
    default: object
    description: str


def load_settings(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Read `config` (TOML), the environment and flags (nested like the file) into one frozen object.

    Raises SettingsError naming the key, the value and the fix.
    """
    if config is not None and not config.is_file():
        raise SettingsError(
            f"settings file {config} does not exist", hint="copy systemd/edge.toml.example there and edit it"
        )
    _refuse_unknown_environment()

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            file_settings = TomlConfigSettingsSource(settings_cls, toml_file=config)
            return init_settings, env_settings, file_settings

    try:
        return Loaded(**dict(flags or {}))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings file {config} is not TOML: {error}", hint="mend the line it names") from None
    except OSError as error:
        raise SettingsError(
            f"settings file {config} cannot be read: {error.strerror}", hint="check its permissions"
        ) from None
    except EnvironmentValueError as error:
        raise SettingsError(str(error), hint="nested values in the environment are JSON") from None
    except ValidationError as error:
        raise _explained(error.errors(include_url=False)) from None


def service_environment() -> ServiceEnvironment:
    """Read the variables of sd_notify(3) and of systemd's credentials.

    How long the watchdog waits is the unit's affair: it is fed twice a second.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return ServiceEnvironment(
        notify_socket=os.environ.get("NOTIFY_SOCKET") or None,
        credentials=Path(credentials) if credentials else None,
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


def _row(section: str, key: str, field: FieldInfo) -> SettingRow:
    return SettingRow(section=section, key=key, default=field.default, description=field.description or "")


def _refuse_unknown_environment() -> None:
    known = {
        (ENV_PREFIX + (row.section + ENV_DELIMITER if row.section else "") + row.key).upper()
        for row in describe_settings()
    }
    known |= {(ENV_PREFIX + name).upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            raise SettingsError(
                f"environment variable {name} is no setting of edge-worker",
                hint=_did_you_mean(name.upper(), known) or f"unset it; names are {ENV_PREFIX}SECTION__KEY",
            )


def _explained(errors: list[ErrorDetails]) -> SettingsError:
    """The first error in an operator's words; the others are counted."""
    error = errors[0]
    location = [str(part) for part in error["loc"]]
    key = ".".join(location) or "settings"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if error["type"] == "extra_forbidden":
        return SettingsError(f"unknown setting `{key}` = {error['input']!r}{more}", hint=_hint_for_unknown(location))
    message = error["msg"].removeprefix("Value error, ")
    return SettingsError(
        f"setting `{key}` = {_shown(error['input'])}: {message}{more}",
        hint=_hint_for(location) or "mend the value in the settings file, the environment or the flag",
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _hint_for(location: list[str]) -> str | None:
    for row in describe_settings():
        if [part for part in (row.section, row.key) if part] == location:
            return f"{row.description}; default: {toml_value(row.default) or 'not set'}"
    return None


def _hint_for_unknown(location: list[str]) -> str:
    section = ".".join(location[:-1])
    siblings = {row.key for row in describe_settings() if row.section == section}
    siblings |= set(Settings.model_fields) if not section else set()
    return _did_you_mean(location[-1], siblings) or f"known here: {', '.join(sorted(siblings))}"


def _did_you_mean(name: str, known: set[str]) -> str | None:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else None


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
    text = str(value)
    return f"'{text}'" if "\\" in text else f'"{text}"'
