"""Settings of actions: what to run when an alert fires or ends.  Nothing by default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, StringConstraints, model_validator

from collector import environment
from collector.notice import Event

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
