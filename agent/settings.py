"""Settings of an agent that runs for good: a TOML file, and variables such as `VMFLOW_AGENT__COLLECTOR`.

Nothing else of `agent` needs pydantic.
"""

from __future__ import annotations

import tomllib
from functools import cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from agent import stamp
from agent.reflector import PER_SECOND, PER_SOURCE, PRIVATE
from agent.sender import Plan, check_octets, least_octets
from agent.text import target

FILE = Path("/etc/vmflow/agent.toml")
LISTEN = (f"0.0.0.0:{stamp.PORT}", f"[::]:{stamp.PORT}")
HEADER_OCTETS = 14 + 40 + 8
"""Ethernet, IPv6 and UDP around a probe: IPv4 has 20 fewer."""
MOST_SESSIONS = 1000


class InvalidSettingsError(Exception):
    """A setting cannot be used; the message names it, a line each."""


class ReflectorSettings(BaseModel, frozen=True, extra="forbid"):
    """Whom this machine answers."""

    listen: tuple[str, ...] = LISTEN
    """Addresses with ports; none: it answers nobody."""
    allow: tuple[IPv4Network | IPv6Network, ...] = PRIVATE
    """Networks of those who get answers."""
    key_file: Path | None = None
    """A key in hex, 32 to 128 digits: with it, only packets with its HMAC are answered."""
    packets_per_second: int = Field(default=PER_SECOND, ge=1, le=1_000_000)
    per_source_per_second: int = Field(default=PER_SOURCE, ge=1, le=1_000_000)

    @field_validator("listen")
    @classmethod
    def _check(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            target(text)
        return value


class SenderSettings(BaseModel, frozen=True, extra="forbid"):
    """What all sessions together may send."""

    packets_per_second: float = Field(default=200, gt=0, le=10_000)
    bits_per_second: float = Field(default=500_000, gt=0, le=1e9)
    """With the headers of Ethernet, IP and UDP."""


class SessionSettings(BaseModel, frozen=True, extra="forbid"):
    """Probes to one reflector."""

    to: str = Field(min_length=1, max_length=100)
    every_ms: float = Field(default=1000, ge=5, le=60_000)
    octets: int = Field(default=0, ge=0, le=stamp.MOST_OCTETS)
    """Length of a probe without IP and UDP headers; 0: as short as can be."""
    dscp: int = Field(default=0, ge=0, le=63)
    reflector: Literal["stateful", "stateless", "unknown"] = "unknown"
    """Whether it counts its replies, so that loss has a direction; `unknown`: as its replies show."""
    plain: bool = False
    """No extensions of RFC 8972, for reflectors that refuse them."""
    key_file: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        target(self.to)
        check_octets(self.plan(self._any_key))
        return self

    @property
    def _any_key(self) -> bytes | None:
        return None if self.key_file is None else bytes(16)

    @property
    def least_octets(self) -> int:
        """Length of a probe without padding."""
        return least_octets(self.plan(self._any_key))

    def plan(self, key: bytes | None) -> Plan:
        """Return what is sent."""
        return Plan(
            every_s=self.every_ms / 1000, octets=self.octets, dscp=self.dscp, key=key,
            extensions=not self.plain, reflector=self.reflector,
        )  # fmt: skip


class AgentSettings(BaseModel, frozen=True, extra="forbid"):
    """One agent."""

    collector: str = ""
    """URL of the collector's web server; empty: this machine only answers probes."""
    token_file: Path | None = None
    """The token that `vmflow passwd NAME --token --role agent` printed."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the collector's certificate, if it is not a public one."""
    reflector: ReflectorSettings = ReflectorSettings()
    sender: SenderSettings = SenderSettings()
    sessions: tuple[SessionSettings, ...] = Field(default=(), max_length=MOST_SESSIONS)

    @field_validator("collector")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if not value:
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("https://HOST:PORT is expected")
        if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
            raise ValueError("a URL without user, query and fragment is expected")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sessions and not (self.collector and self.token_file):
            raise ValueError("agent.sessions: their results need agent.collector and agent.token_file")
        packets = sum(1000 / session.every_ms for session in self.sessions)
        if packets > self.sender.packets_per_second:
            raise ValueError(
                f"agent.sessions: {packets:g} packets/s together, "
                f"but agent.sender.packets_per_second is {self.sender.packets_per_second:g}"
            )
        bits = sum(8000 / one.every_ms * (HEADER_OCTETS + max(one.octets, one.least_octets)) for one in self.sessions)
        if bits > self.sender.bits_per_second:
            raise ValueError(
                f"agent.sessions: {bits:,.0f} bit/s together, "
                f"but agent.sender.bits_per_second is {self.sender.bits_per_second:,.0f}"
            )
        return self


class _File(BaseSettings):
    """What the file has; it may have no other section."""

    model_config = SettingsConfigDict(env_prefix="VMFLOW_", env_nested_delimiter="__", extra="forbid", frozen=True)
    toml_file: ClassVar[Path | None] = None
    agent: AgentSettings = AgentSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources: environment over file."""
        return env_settings, TomlConfigSettingsSource(settings_cls, cls.toml_file)


@cache
def _from_file(file: Path) -> type[_File]:
    return type("_File", (_File,), {"toml_file": file, "__doc__": _File.__doc__})


def load(file: Path) -> AgentSettings:
    """Read and check the settings.  Raises InvalidSettingsError for what cannot be used; OSError."""
    with file.open("rb"):
        pass  # pydantic takes a missing file for an empty one
    try:
        return _from_file(file)().agent
    except ValidationError as error:
        lines = [
            ".".join(map(str, problem["loc"])) + (": " if problem["loc"] else "")
            + problem["msg"].removeprefix("Value error, ")
            for problem in error.errors(include_url=False)
        ]  # fmt: skip
        raise InvalidSettingsError("\n".join(lines)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, SettingsError) as error:
        raise InvalidSettingsError(f"{file}: {error}") from error
