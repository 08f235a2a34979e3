"""Settings of notifications: who gets messages, in which language, how long delivery is retried; and actions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, StringConstraints, field_validator, model_validator

from collector import environment
from collector.interfaces import Event
from collector.notify.receiver import NotifyError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Argument = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
Language = Literal["en", "zh"]
Form = Literal["auto", "full", "short"]

URL_BYTES = 8192
"""Longest URL."""


class UrlSettings(BaseModel, frozen=True, extra="forbid"):
    """A URL that may hold a secret: in the settings, in a file, or in a variable."""

    section: ClassVar[str]
    """Where such tables are in the settings, for messages."""

    url: SecretStr | None = None
    url_file: Path | None = None
    """File that holds the URL and nothing else: keeps the secret out of the settings."""
    url_env: str = Field(default="", pattern=r"^[A-Za-z0-9_]*$")
    """Environment variable that holds the URL.  Its name must not begin with VMFLOW_: those are settings."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the server's certificate, if it is not a public one."""

    @property
    def given(self) -> list[str]:
        """Which of the three ways are used."""
        return [name for name in ("url", "url_file", "url_env") if getattr(self, name) not in (None, "")]

    @abstractmethod
    def check_url(self, url: str) -> None:
        """Raise ValueError, which does not quote the URL."""

    def check_one_is_given(self) -> None:
        """Raise ValueError unless exactly one way is used, and used correctly."""
        if len(self.given) != 1:
            raise ValueError(
                f"exactly one of url, url_file, url_env is expected, not {', '.join(self.given) or 'none'}"
            )
        if self.url is not None:
            self.check_url(self.url.get_secret_value())

    @field_validator("url_env")
    @classmethod
    def _check_variable(cls, name: str) -> str:
        if name.startswith("VMFLOW_"):
            raise ValueError("a name that does not begin with VMFLOW_ is expected")
        return name

    def read_url(self, name: str) -> str:
        """Return the URL of the entry `name`, from where it is kept.  Raises NotifyError, without the URL."""
        where = f"{self.section}.{name}"
        if self.url is not None:
            return self.url.get_secret_value()
        if self.url_file is not None:
            key, url = "url_file", _read(where, self.url_file)
        else:
            key, url = "url_env", environment.variables().get(self.url_env, "").strip()
            if not url:
                raise NotifyError(f"{where}.url_env: variable {self.url_env} is not set, or empty")
        try:
            self.check_url(url)
        except ValueError as error:
            raise NotifyError(f"{where}.{key}: {error}") from None
        return url


class ActionSettings(UrlSettings, frozen=True, extra="forbid"):
    """One action: a command without a shell, or a POST of JSON."""

    section: ClassVar[str] = "notify.actions"

    kind: Literal["command", "webhook"]
    """`command` runs `argv`; `webhook` posts to the URL."""
    rules: tuple[str, ...] = Field(min_length=1, max_length=200)
    """Names of the rules whose alerts trigger it."""
    events: tuple[Event, ...] = Field(default=("firing",), min_length=1)
    """Changes of an alert: firing, resolved, escalated, acknowledged.  Alerts held back by a silence or inhibited by
    another alert trigger nothing."""
    argv: tuple[Argument, ...] = Field(default=(), max_length=64)
    """Command: the program's absolute path and its arguments, passed as they stand here.  The alert comes as JSON on
    standard input and in variables ALERT_RULE, ALERT_LABEL_SRC_VM ...: names that tenants choose are no arguments."""
    timeout_seconds: float = Field(default=30, ge=0.1, le=600)
    """After this time a command and all that it started are killed, and a webhook is no longer waited for."""
    per_minute: int = Field(default=6, ge=1, le=600)
    """Runs in any minute; more are skipped, and in the audit as `limited`."""
    max_output_bytes: int = Field(default=4096, ge=0, le=65_536)
    """What is kept of the output or answer, for the audit; the rest is read and dropped."""
    dry_run: bool = False
    """True: do nothing but write the audit row."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "command":
            if self.given or self.ca_file is not None:
                raise ValueError(f"kind = 'command': argv is expected, not {', '.join(self.given) or 'ca_file'}")
            if not self.argv or not self.argv[0].startswith("/"):
                first = repr(self.argv[0]) if self.argv else "none"
                raise ValueError(f"argv: the absolute path of a program is expected first, not {first}")
        else:
            if self.argv:
                raise ValueError("kind = 'webhook': url, url_file or url_env is expected, not argv")
            self.check_one_is_given()
        return self

    def check_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or _unprintable(url):
            raise ValueError("one URL that begins with http:// or https:// is expected, without spaces")


class ReceiverSettings(UrlSettings, frozen=True, extra="forbid"):
    """One receiver.  Exactly one of `url`, `url_file` and `url_env` says where it is."""

    section: ClassVar[str] = "notify.receivers"

    kind: Literal["apprise", "alertmanager"] = "apprise"  # each is a module of this room
    """`apprise`: mail, SMS gateways, WeCom, webhooks and the rest, by URL, such as
    `mailtos://user:password@mail.example.net?to=ops@example.net`.  `alertmanager`: API v2 of Alertmanager, at
    `http://host:9093`; `ca_file` is for it alone."""
    language: Language = "en"
    """English or Chinese."""
    form: Form = "auto"
    """`short`: at most 140 characters, for SMS.  `auto`: short if the service accepts no more than 320."""
    lines: int = Field(default=10, ge=1, le=200)
    """Alerts named one by one in a message about several; the others are only counted."""

    timeout_seconds: float = Field(default=30, gt=0, le=600)
    """One attempt.  Some SMS gateways allow one request in 5 s only, and apprise waits for that within the attempt."""
    min_retry_seconds: float = Field(default=2, gt=0, le=3600)
    """Pause before the second attempt.  It doubles each time; half of each pause is random."""
    max_retry_seconds: float = Field(default=120, gt=0, le=86_400)
    retry_total_seconds: float = Field(default=3600, gt=0, le=7 * 86_400)
    """A message older than this is given up after its next attempt: later, people look at the alerts themselves."""
    per_minute: int = Field(default=20, ge=1, le=6000)
    """Messages in any minute; more wait.  WeCom accepts 20 a minute from a bot; an SMS costs money."""
    queue_groups: int = Field(default=1000, ge=1, le=100_000)
    """Messages waiting.  More are dropped, and counted: an hour of one message in 4 s."""
    resend_seconds: float = Field(default=60, ge=1, le=3600)
    """Alertmanager: firing alerts are sent again this often, as Prometheus does; after four times as long without,
    Alertmanager considers them resolved."""
    max_firing: int = Field(default=10_000, ge=1, le=1_000_000)
    """Alertmanager: firing alerts that are sent again.  More are sent once, and counted; about 5 kB each."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.check_one_is_given()
        return self

    def check_url(self, url: str) -> None:
        if _unprintable(url):
            raise ValueError(f"one URL without spaces is expected, of at most {URL_BYTES} bytes")
        scheme, separator, rest = url.partition("://")
        if not scheme or not separator or not rest:
            raise ValueError("a URL is expected, scheme://...")
        if self.kind == "alertmanager":
            _check_alertmanager(scheme, url)


class NotifySettings(BaseModel, frozen=True, extra="forbid"):
    """Who gets alerts: people and programs.  Routes and rules name the receivers, actions name the rules."""

    receivers: dict[Name, ReceiverSettings] = Field(default_factory=dict, max_length=64)
    """By name.  Each has its own queue and worker, so that a dead one does not hold up the others."""
    public_url: str = ""
    """Where people reach vmflow's web page; Alertmanager shows it as the source of an alert."""
    actions_enabled: bool = False
    """False: no action runs, whatever else is set."""
    actions: dict[Name, ActionSettings] = Field(default_factory=dict, max_length=64)
    """By name.  Each has a queue and a worker of its own and runs one at a time."""
    max_queued_actions: int = Field(default=1000, ge=1, le=100_000)
    """Alerts that wait for an action; more are dropped, and counted."""
    drain_seconds: float = Field(default=5, ge=0, le=60)
    """At the stop, waiting messages are still sent for this long, and running actions may take this long to end.  Other
    messages are sent after the next start; waiting actions are not run later."""

    @model_validator(mode="before")
    @classmethod
    def _hide(cls, values: Any) -> Any:
        """Wrap the URLs before anything is checked: pydantic's messages quote the input."""
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
    """Return the URL in a file.  Raises NotifyError."""
    try:
        with file.open("rb") as opened:
            octets = opened.read(URL_BYTES + 1)
        return octets.decode("utf-8").strip()
    except OSError as error:
        raise NotifyError(f"{where}.url_file: {file}: {error.strerror or 'cannot be read'}") from None
    except UnicodeDecodeError:
        raise NotifyError(f"{where}.url_file: {file}: UTF-8 is expected") from None


def _unprintable(url: str) -> bool:
    return len(url.encode()) > URL_BYTES or any(sign.isspace() or not sign.isprintable() for sign in url)


def _check_alertmanager(scheme: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ValueError("an Alertmanager is http://host:9093 or https://host:9093, perhaps with a path")
