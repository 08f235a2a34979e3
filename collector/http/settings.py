"""Settings of login and TLS, and the error that names the one that cannot be used."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, SecretStr, StringConstraints, field_validator, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]
Role = Literal["reader", "operator", "agent"]

TOKEN_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class AccessError(Exception):
    """A server must not start with these settings; the message says why and what to do."""


class LoginSettings(BaseModel, frozen=True, extra="forbid"):
    """Someone who may log in."""

    name: Name
    role: Role = "reader"
    """A `reader` may query; an `operator` may also acknowledge, silence and change.  An `agent` may post its results
    and nothing else; its token's name is the agent's."""


class UserSettings(LoginSettings, frozen=True, extra="forbid"):
    """A user with a password."""

    password_hash: SecretStr
    """What `vmflow passwd NAME` prints: argon2id in its usual form, `$argon2id$v=19$…`."""

    @field_validator("role")
    @classmethod
    def _check_role(cls, value: Role) -> Role:
        if value == "agent":
            raise ValueError("agents have tokens, no passwords: `vmflow passwd NAME --token --role agent`")
        return value

    @field_validator("password_hash")
    @classmethod
    def _check_hash(cls, value: SecretStr) -> SecretStr:
        from argon2 import Type, extract_parameters  # noqa: PLC0415 - slow to load, and only logins need it
        from argon2.exceptions import InvalidHashError  # noqa: PLC0415

        try:
            kind = extract_parameters(value.get_secret_value()).type
        except InvalidHashError:
            kind = None
        if kind is not Type.ID:
            raise ValueError("is no argon2id hash; `vmflow passwd NAME` makes one")
        return value


class TokenSettings(LoginSettings, frozen=True, extra="forbid"):
    """A program with a token of 256 random bits."""

    token_hash: SecretStr
    """What `vmflow passwd --token NAME` prints: `sha256:` and 64 hexadecimal digits."""

    @field_validator("token_hash")
    @classmethod
    def _check_hash(cls, value: SecretStr) -> SecretStr:
        if not TOKEN_HASH.fullmatch(value.get_secret_value()):
            raise ValueError("is no token's hash; `vmflow passwd --token NAME` makes one")
        return value


class AccessSettings(BaseModel, frozen=True, extra="forbid"):
    """Who may use the web server and the SQL endpoint, and how their connections are protected.

    Without users and tokens there is no login, and both servers start on loopback addresses only.
    """

    users: tuple[UserSettings, ...] = Field(default=(), max_length=1000)
    """Logins with a password (HTTP basic authentication, or as ClickHouse clients send it)."""
    tokens: tuple[TokenSettings, ...] = Field(default=(), max_length=1000)
    """Logins with a token (`Authorization: Bearer …`), for programs."""
    anonymous: bool = False
    """True: no login even if other machines can reach the servers.  For servers behind a proxy that requires a login,
    and for containers whose ports are published on loopback only."""
    metrics_open: bool = False
    """True: /metrics requires no login, for a Prometheus without one."""
    client_token: SecretStr = SecretStr("")
    """The token that this machine's `vmflow query` and `vmflow alerts` send to the service."""
    names: tuple[HostName, ...] = Field(default=(), max_length=100)
    """Names under which clients reach the web server and the SQL endpoint, besides addresses, `localhost` and the
    `host` of the settings: otherwise another site's page could point a name of its own here (DNS rebinding)."""

    certificate_file: Path | None = None
    """PEM file with the certificate and those that signed it; with it, both servers speak TLS only (1.2 or newer)."""
    key_file: Path | None = None
    """PEM file with the certificate's private key, without a passphrase."""

    ca_file: Path | None = None
    """PEM file of the authority that signed it, if it is not a public one, for this machine's `vmflow query` and
    `vmflow alerts`.  The certificate must name `sql.host` and `web.host`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [user.name for user in self.users] + [token.name for token in self.tokens]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"more than one login is called {', '.join(twice)}")
        if names and self.anonymous:
            raise ValueError("anonymous = true, but there are users or tokens: leave out the one or the other")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together: set both or none")
        return self

    @property
    def required(self) -> bool:
        """Whether clients must log in."""
        return bool(self.users or self.tokens)

    def check_address(self, host: str, setting: str) -> None:
        """Raise AccessError if a server at `host` (an address or a name, from `setting`) would let anyone in."""
        if self.required or self.anonymous or is_loopback(host):
            return
        raise AccessError(
            f"{setting} = {host!r}: others than this machine could use it without a login; add a line from "
            "`vmflow passwd NAME` to access.users, or set access.anonymous = true if something else keeps them out"
        )


def is_loopback(host: str) -> bool:
    """Return whether an address, or the name `localhost`, is reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
