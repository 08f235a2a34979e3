"""Settings of delivery: who gets messages, in which language, and how long it is tried.

Settings of actions: what to run when an alert fires or ends.  Nothing by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, StringConstraints, field_validator, model_validator

from collector import environment
from collector.interfaces import Event
from collector.notify.receiver import DeliverError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Argument = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
URL_OCTETS = 8192


class ActionError(Exception):
    """An action cannot be run as it is set; the message names the setting, and never the URL."""


class ActionSettings(BaseModel, frozen=True, extra="forbid"):
    """One action: a command without a shell, or a POST of JSON."""

    kind: Literal["command", "webhook"]
    """`command` runs `argv`; `webhook` posts to the URL."""
    rules: tuple[str, ...] = Field(min_length=1, max_length=200)
    """Names of the rules whose alerts make it run."""
    events: tuple[Event, ...] = Field(default=("firing",), min_length=1)
    """Changes of an alert: firing, resolved, escalated, acknowledged.  What a silence or another alert keeps back makes
    nothing run."""
    argv: tuple[Argument, ...] = Field(default=(), max_length=64)
    """Command: the program's absolute path and its arguments, passed as they stand here.  The alert comes as JSON on
    standard input and in variables ALERT_RULE, ALERT_LABEL_SRC_VM ...: names that tenants choose are no arguments."""
    url: SecretStr | None = None
    """Webhook: http://... or https://...  Exactly one of `url`, `url_file` and `url_env` is given."""
    url_file: Path | None = None
    """File that holds the URL and nothing else."""
    url_env: str = Field(default="", pattern=r"^[A-Za-z0-9_]*$")
    """Environment variable that holds it.  Its name must not begin with VMFLOW_: those are settings."""
    ca_file: Path | None = None
    """Webhook: PEM file of the authority that signed its certificate, if it is not a public one."""
    timeout_seconds: float = Field(default=30, ge=0.1, le=600)
    """After so long a command and all that it started is killed, and a webhook is not waited for."""
    per_minute: int = Field(default=6, ge=1, le=600)
    """Runs in any minute; more are not made up for, but stand in the audit as `limited`."""
    output_octets: int = Field(default=4096, ge=0, le=65_536)
    """What is kept of the output or answer, for the audit; the rest is read and thrown away."""
    dry_run: bool = False
    """True: do nothing but write the audit row."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.url_env.startswith("VMFLOW_"):
            raise ValueError("url_env: a name that does not begin with VMFLOW_ is expected")
        given = [name for name in ("url", "url_file", "url_env") if getattr(self, name) not in (None, "")]
        if self.kind == "command":
            if given or self.ca_file is not None:
                raise ValueError(f"kind = 'command': argv is expected, not {', '.join(given) or 'ca_file'}")
            if not self.argv or not self.argv[0].startswith("/"):
                first = repr(self.argv[0]) if self.argv else "none"
                raise ValueError(f"argv: the absolute path of a program is expected first, not {first}")
        else:
            if self.argv:
                raise ValueError("kind = 'webhook': url, url_file or url_env is expected, not argv")
            if len(given) != 1:
                raise ValueError(f"exactly one of url, url_file, url_env is expected, not {', '.join(given) or 'none'}")
            if self.url is not None:
                check_url(self.url.get_secret_value())
        return self

    def read_url(self, name: str) -> str:
        """The URL of the webhook called `name`.  Raises ActionError."""
        where = f"act.actions.{name}"
        if self.url is not None:
            return self.url.get_secret_value()
        try:
            if self.url_file is not None:
                with self.url_file.open("rb") as opened:
                    url = opened.read(URL_OCTETS + 1).decode("utf-8").strip()
            else:
                url = environment.variables().get(self.url_env, "").strip()
            check_url(url)
        except OSError as error:
            raise ActionError(f"{where}.url_file: {self.url_file}: {error.strerror or 'cannot be read'}") from None
        except ValueError as error:
            key = "url_file" if self.url_file is not None else "url_env"
            # What cannot be decoded is quoted by the error.
            reason = "UTF-8 is expected" if isinstance(error, UnicodeDecodeError) else str(error)
            raise ActionError(f"{where}.{key}: {reason}") from None
        return url


class ActSettings(BaseModel, frozen=True, extra="forbid"):
    """What alerts may make vmflow do."""

    enabled: bool = False
    """False: no action runs, whatever else stands here."""
    actions: dict[Name, ActionSettings] = Field(default_factory=dict, max_length=64)
    """By name.  Each has a queue and a worker of its own and runs one at a time."""
    queue_alerts: int = Field(default=1000, ge=1, le=100_000)
    """Alerts that wait for an action; more are left out, and counted."""
    drain_seconds: float = Field(default=5, ge=0, le=60)
    """At the stop, what runs may take so long to end; it is killed then.  What waits is not run later."""


def check_url(url: str) -> None:
    """Raises ValueError, which does not quote the URL."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or len(url) > URL_OCTETS or any(sign.isspace() or not sign.isprintable() for sign in url):
        raise ValueError("one URL that begins with http:// or https:// is expected, without spaces")


"""Longest address of a receiver."""


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
