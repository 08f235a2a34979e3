"""Settings of delivery: who gets messages, in which language, and how long it is tried."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, StringConstraints, field_validator, model_validator

from collector import environment
from collector.deliver.answer import DeliverError

URL_OCTETS = 8192
"""Longest address of a receiver."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Language = Literal["en", "zh"]
Form = Literal["auto", "full", "short"]


class ReceiverSettings(BaseModel, frozen=True, extra="forbid"):
    """One receiver.  Exactly one of `url`, `url_file` and `url_env` says where it is."""

    kind: Literal["apprise", "alertmanager"] = "apprise"
    """`apprise`: mail, SMS gateways, WeCom, webhooks and the rest, by URL.  `alertmanager`: API v2 of Alertmanager."""
    url: SecretStr | None = None
    """Such as `mailtos://user:password@mail.example.net?to=ops@example.net`; for Alertmanager, `http://host:9093`."""
    url_file: Path | None = None
    """File that holds the URL and nothing else: keeps the secret out of the settings."""
    url_env: str = ""
    """Environment variable that holds the URL.  Its name must not begin with VMFLOW_: those are settings."""
    ca_file: Path | None = None
    """Alertmanager: PEM file of the authority that signed its certificate, if it is not a public one."""

    language: Language = "en"
    """English or Chinese."""
    form: Form = "auto"
    """`short`: at most 140 characters, for SMS.  `auto`: short where the service takes no more than 320."""
    lines: int = Field(default=10, ge=1, le=200)
    """Alerts that a message about several names one by one; of the rest it says how many there are."""

    timeout_seconds: float = Field(default=30, gt=0, le=600)
    """One attempt.  Some SMS gateways may be asked once in 5 s only, and apprise waits for that within the attempt."""
    retry_first_seconds: float = Field(default=2, gt=0, le=3600)
    """Pause before the second attempt.  It doubles each time; half of each pause is left to chance."""
    retry_longest_seconds: float = Field(default=120, gt=0, le=86_400)
    retry_total_seconds: float = Field(default=3600, gt=0, le=7 * 86_400)
    """A message older than this is given up after its next attempt: later, people look at the alerts themselves."""
    per_minute: int = Field(default=20, ge=1, le=6000)
    """Messages in any minute; more wait.  WeCom takes 20 a minute from a bot; an SMS costs money."""
    queue_groups: int = Field(default=1000, ge=1, le=100_000)
    """Messages waiting.  More are not taken, and counted: an hour of one message in 4 s."""
    resend_seconds: float = Field(default=60, ge=1, le=3600)
    """Alertmanager: firing alerts are told again this often, as Prometheus does; after four times as long without,
    Alertmanager takes them for resolved."""
    most_firing: int = Field(default=10_000, ge=1, le=1_000_000)
    """Alertmanager: firing alerts that are told again.  More are told once, and counted; about 5 kB each."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("url", "url_file", "url_env") if getattr(self, name) not in (None, "")]
        if len(given) != 1:
            raise ValueError(f"exactly one of url, url_file, url_env is expected, not {', '.join(given) or 'none'}")
        if self.url_env.startswith("VMFLOW_"):
            raise ValueError("url_env: a name that does not begin with VMFLOW_ is expected")
        if self.url is not None:
            _check_url(self.kind, self.url.get_secret_value())
        return self

    def read_url(self, name: str) -> str:
        """The URL of the receiver called `name`, from where it is kept.  Raises DeliverError, without the URL."""
        where = f"deliver.receivers.{name}"
        if self.url is not None:
            return self.url.get_secret_value()
        if self.url_file is not None:
            url = _read(where, self.url_file)
        else:
            url = environment.variables().get(self.url_env, "").strip()
            if not url:
                raise DeliverError(f"{where}.url_env: variable {self.url_env} is not set, or empty")
        try:
            _check_url(self.kind, url)
        except ValueError as error:
            raise DeliverError(f"{where}: {error}") from None
        return url


class DeliverSettings(BaseModel, frozen=True, extra="forbid"):
    """Who can be told of alerts.  Routes and rules name the receivers."""

    receivers: dict[Name, ReceiverSettings] = Field(default_factory=dict, max_length=64)
    """By name.  Each has a queue and a worker of its own, so that a dead one does not hold the others."""
    public_url: str = ""
    """Where people reach vmflow's web page; Alertmanager shows it as the source of an alert."""
    drain_seconds: float = Field(default=5, ge=0, le=60)
    """At the stop, messages that wait are still sent for this long; the rest goes out after the next start."""

    @model_validator(mode="before")
    @classmethod
    def _hide(cls, values: Any) -> Any:
        """Wrap the URLs before anything is checked: what pydantic says of a mistake quotes its input."""
        if not isinstance(values, Mapping) or not isinstance(values.get("receivers"), Mapping):
            return values
        hidden = {}
        for name, receiver in values["receivers"].items():
            url = receiver.get("url") if isinstance(receiver, Mapping) else None
            if url is None or isinstance(url, SecretStr):
                hidden[name] = receiver
            else:
                hidden[name] = {**receiver, "url": SecretStr(url if isinstance(url, str) else "")}
        return {**values, "receivers": hidden}

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, url: str) -> str:
        if url and urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("must begin with http:// or https://")
        return url


def _read(where: str, file: Path) -> str:
    """The URL in a file.  Raises DeliverError."""
    try:
        with file.open("rb") as opened:
            octets = opened.read(URL_OCTETS + 1)
        return octets.decode("utf-8").strip()
    except OSError as error:
        raise DeliverError(f"{where}.url_file: {file}: {error.strerror or 'cannot be read'}") from None
    except UnicodeDecodeError:
        raise DeliverError(f"{where}.url_file: {file}: UTF-8 is expected") from None


def _check_url(kind: str, url: str) -> None:
    """Raises ValueError, which does not quote the URL."""
    if len(url.encode()) > URL_OCTETS or any(sign.isspace() or not sign.isprintable() for sign in url):
        raise ValueError(f"one URL without spaces is expected, of at most {URL_OCTETS} octets")
    scheme, separator, rest = url.partition("://")
    if not scheme or not separator or not rest:
        raise ValueError("a URL is expected, scheme://...")
    if kind == "alertmanager":
        _check_alertmanager(scheme, url)


def _check_alertmanager(scheme: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ValueError("an Alertmanager is http://host:9093 or https://host:9093, perhaps with a path")
