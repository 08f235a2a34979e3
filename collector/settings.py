"""All settings: the models of the stages, joined, and where their values come from."""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from pydantic import ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import (
    SettingsError as SourceError,
)

from collector import environment
from collector.alert.settings import AlertSettings
from collector.analyze.settings import AnalyzeSettings
from collector.decode.settings import DecodeSettings
from collector.http.settings import AccessError, AccessSettings
from collector.inventory.settings import InventorySettings
from collector.listen.settings import ListenSettings
from collector.log import LogSettings
from collector.notify.settings import NotifySettings
from collector.process.confine import ConfineSettings
from collector.rollup.settings import RollupSettings
from collector.store.settings import SqlSettings, StoreSettings
from collector.terminal import similar
from collector.web.settings import WebSettings

PREFIX = "VMFLOW_"
DELIMITER = "__"
NOT_SETTINGS = frozenset({"VMFLOW_CONFIG", "VMFLOW_CACHE_DIR"})
"""Variables with the prefix that are read elsewhere: the settings file's name, and where kernels are cached."""

SECRET_PARTS = ("password", "token", "secret", "users")
"""Keys with one of these in their names are never printed with their values."""

SECRET_KEYS = re.compile(r"notify\.(receivers(\.[^.]+)?|actions(\.[^.]+(\.url)?)?)")
"""Keys that hold a secret when people write a URL in place of a table."""

_LOGIN_IN_URL = re.compile(r"(?<=//)[^/@\s]*(?=@)")
_SECRET_IN_URL = re.compile(r"(?<=[?&])([^=&\s]*(?:pass|token|secret|key)[^=&\s]*)=[^&\s']*", re.IGNORECASE)


class InvalidSettingsError(Exception):
    """A setting cannot be used; the message names the key, the value and what was expected."""


class Settings(BaseSettings):
    """Settings of the service.

    Sources in rising order: defaults, TOML file, `VMFLOW_SECTION__KEY` variables, `--set section.key=value`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=DELIMITER, extra="forbid", frozen=True)
    toml_file: ClassVar[Path | None] = None

    listen: ListenSettings = ListenSettings()
    decode: DecodeSettings = DecodeSettings()
    inventory: InventorySettings = InventorySettings()
    store: StoreSettings = StoreSettings()
    sql: SqlSettings = SqlSettings()
    rollup: RollupSettings = RollupSettings()
    analyze: AnalyzeSettings = AnalyzeSettings()
    alerts: AlertSettings = AlertSettings()
    notify: NotifySettings = NotifySettings()
    web: WebSettings = WebSettings()
    access: AccessSettings = AccessSettings()
    confine: ConfineSettings = ConfineSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _check_receivers(self) -> Self:
        for number, route in enumerate(self.alerts.routes):
            for name in (*route.receivers, *route.escalate_to):
                if name not in self.notify.receivers:
                    known = ", ".join(sorted(self.notify.receivers)) or "none"
                    raise ValueError(f"alerts.routes.{number}: no receiver {name!r}; notify.receivers are {known}")
        return self

    @model_validator(mode="after")
    def _check_actions(self) -> Self:
        rules = {rule.name for rule in self.alerts.active()}
        for name, action in self.notify.actions.items():
            for rule in action.rules:
                if rule not in rules:
                    known = ", ".join(sorted(rules)) or "none"
                    raise ValueError(f"notify.actions.{name}.rules: no rule {rule!r}; expected one of {known}")
        return self

    @model_validator(mode="after")
    def _check_access(self) -> Self:
        try:
            if self.web.enabled:
                self.access.check_address(self.web.host, "web.host")
            if self.store.embedded and self.sql.enabled:
                self.access.check_address(self.sql.host, "sql.host")
        except AccessError as error:
            raise ValueError(str(error)) from error
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources: command line over environment over file."""
        variables = EnvSettingsSource(settings_cls)
        variables.env_vars = {name.lower(): value for name, value in environment.variables().items()}
        if cls.toml_file is None:
            return init_settings, variables
        return init_settings, variables, TomlConfigSettingsSource(settings_cls, cls.toml_file)


def secret_variables(settings: Settings) -> set[str]:
    """Return the names of the variables that hold settings, or secrets that settings name."""
    named = {receiver.url_env for receiver in settings.notify.receivers.values()}
    named |= {action.url_env for action in settings.notify.actions.values()}
    own = {name for name in environment.variables() if name.startswith(PREFIX) and name not in NOT_SETTINGS}
    return own | (named - {""})


def load(file: Path | None = None, overrides: list[str] | None = None) -> Settings:
    """Read and check all settings.  Raises InvalidSettingsError for what cannot be used."""
    if file is not None and not file.is_file():
        raise InvalidSettingsError(f"{file}: no such file; give an existing TOML file with --config")
    _refuse_unknown_variables()
    try:
        settings = _from_file(file)(**_nested(overrides or []))
    except ValidationError as error:
        raise InvalidSettingsError(explain(error)) from error
    except (SourceError, tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidSettingsError(f"{file or 'environment'}: {error}") from error
    return settings


@cache
def _from_file(file: Path | None) -> type[Settings]:
    """Return the settings as a class that reads this file.  Cached: pydantic takes longer to make it than to read the
    file."""
    return type("Settings", (Settings,), {"toml_file": file, "__doc__": Settings.__doc__})


def _refuse_unknown_variables() -> None:
    """Refuse a misspelt section in a variable's name, which would otherwise be silently ignored."""
    for name in sorted(environment.variables()):
        section = name.removeprefix(PREFIX).lower().split(DELIMITER)[0]
        if name.startswith(PREFIX) and name not in NOT_SETTINGS and section not in Settings.model_fields:
            raise InvalidSettingsError(
                f"variable {name}: no section {section!r}; {PREFIX}SECTION{DELIMITER}KEY is expected, "
                f"with one of the sections {', '.join(Settings.model_fields)}"
            )


def _nested(overrides: list[str]) -> dict[str, Any]:
    """Return `section.key=value` items as nested dictionaries; a value that is JSON (list, number, true) counts as
    such."""
    values: dict[str, Any] = {}
    for item in overrides:
        name, equals, text = item.partition("=")
        path = name.strip().split(".")
        if not equals or len(path) < 2 or "" in path:
            raise InvalidSettingsError(f"--set {item}: section.key=value is expected, as in --set web.port=9090")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        section = values
        for part in path[:-1]:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise InvalidSettingsError(f"--set {item}: {part} was set to a value before")
        section[path[-1]] = value
    return values


def explain(error: ValidationError, section: tuple[str, ...] = ()) -> str:
    """Return what is wrong with settings, or with one section of them: a line each, without secrets."""
    lines = []
    for problem in error.errors(include_url=False):
        path = (*section, *problem["loc"])
        key, message = ".".join(str(part) for part in path), problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "model_type":
            message = "a table of settings is expected"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: no such setting{_alternatives(path)}")
        elif any(part in key.lower() for part in SECRET_PARTS) or SECRET_KEYS.fullmatch(key):
            lines.append(f"{key}: {message}")
        elif not key:
            # Sections that contradict each other: the message names them.
            lines.append(message)
        elif isinstance(problem["input"], dict):
            # A whole table is of no use; the message names its key and value.  Entries of a list are identified by
            # name.
            name = problem["input"].get("name")
            lines.append(f"{key} ({name}): {message}" if isinstance(name, str) else f"{key}: {message}")
        else:
            lines.append(f"{key} = {problem['input']!r}: {message}")
    return _SECRET_IN_URL.sub(r"\1=***", _LOGIN_IN_URL.sub("***", "\n".join(lines)))


def _alternatives(path: tuple[int | str, ...]) -> str:
    """Return the names that exist in the section of an unknown key."""
    model: Any = Settings
    for part in path[:-1]:
        fields = getattr(model, "model_fields", None)
        if fields is None:  # an entry of a list or table of sections
            model = next((one for one in get_args(model) if hasattr(one, "model_fields")), None)
        elif part in fields:
            model = fields[part].annotation
        else:
            return ""
    names = getattr(model, "model_fields", {})
    hint = similar(str(path[-1]), names)
    return f"; expected one of {', '.join(sorted(names))}{hint}" if names else ""
