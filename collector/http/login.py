"""Login: passwords and tokens are checked here, for all servers of the process.

argon2 takes tens of milliseconds and 64 MiB on purpose, so it runs on a thread, one check at a time, and a correct
password is cached for a minute (as a keyed digest, not itself).  Few may wait for a check; an address that fails
repeatedly must retry later.  All of these tables are bounded.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from collector.http.settings import AccessSettings, Role
from collector.interfaces import Call
from collector.metrics import Metrics

REMEMBER_SECONDS = 60.0
"""A revoked password works this much longer, but not after a restart."""
REMEMBERED = 256
WAITING = 16
"""Password checks that may wait; others must retry later."""
FREE_FAILURES = 5
"""Wrong passwords from one address before it is blocked for a time: people mistype."""
LONGEST_PAUSE_SECONDS = 60.0
ADDRESSES = 4096
"""Addresses whose failures are remembered; the one that failed longest ago is dropped first."""
SECRET_CHARACTERS = 1024
"""Longest password that is checked."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A logged-in user."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a request: a token (`user` is empty), or a name with a password or token."""

    user: str
    secret: str


@dataclass(slots=True)
class _Failures:
    count: int
    until: float


class DeniedError(Exception):
    """Login failed.  `status` is 401 for wrong credentials, 429 for those that must wait `retry_seconds`."""

    def __init__(self, message: str, status: int = 401, retry_seconds: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_seconds = retry_seconds


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password, with its own salt.  Blocks for tens of milliseconds."""
    return PasswordHasher().hash(password)


def new_token() -> tuple[str, str]:
    """Return a random token of 256 bits, and its entry for the settings."""
    token = secrets.token_urlsafe(32)
    return token, token_hash(token)


def token_hash(token: str) -> str:
    """Return the SHA-256 of a token: with 256 random bits there is nothing to guess, so a slow hash would protect
    nothing."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


class Login:
    """The check of credentials.  `call` runs a blocking function on a thread, one at a time; `clock` returns
    seconds."""

    def __init__(
        self, settings: AccessSettings, metrics: Metrics, call: Call, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self._call = call
        self._clock = clock
        self._hasher = PasswordHasher()
        self._users = {user.name: user for user in settings.users}
        self._nobody = ""
        """The hash against which unknown names are checked, so that they take as long as known ones."""
        self._key = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._waiting = 0
        self._outcomes = metrics.counter("logins_total", "Checks of credentials, by outcome.", ("outcome",))

    async def identify(self, shown: Credentials | None, address: str) -> Identity:
        """Return the user with these credentials from `address`.  Raises DeniedError."""
        if shown is None:
            raise DeniedError("a login is needed: name and password, or a token")
        if len(shown.secret) > SECRET_CHARACTERS:
            self._outcomes.labels("wrong").inc()
            raise DeniedError("wrong name, password or token")
        found = self._token(shown) or self._recall(shown)
        if found is not None:
            self._outcomes.labels("ok").inc()
            return found
        place = place_of(address)
        self._hold_off(place)
        found = await self._password(shown) if shown.user else None
        if found is None:
            self._outcomes.labels("wrong").inc()
            self._failed(place)
            raise DeniedError("wrong name, password or token")
        self._outcomes.labels("ok").inc()
        self._failures.pop(place, None)
        self._remember(shown, found)
        return found

    def _token(self, shown: Credentials) -> Identity | None:
        """Return the owner of a token; all tokens are compared, so that the time reveals nothing.

        ClickHouse clients without a name send `default`.
        """
        digest = token_hash(shown.secret).encode()
        found = None
        for token in self.settings.tokens:
            same = hmac.compare_digest(digest, token.token_hash.get_secret_value().encode())
            if same and shown.user in ("", "default", token.name):
                found = Identity(token.name, token.role)
        return found

    async def _password(self, shown: Credentials) -> Identity | None:
        if self._waiting >= WAITING:
            self._outcomes.labels("busy").inc()
            raise DeniedError("too many logins at once", 429, 1)
        self._waiting += 1
        try:
            return await self._call(self._verify, shown)
        finally:
            self._waiting -= 1

    def _verify(self, shown: Credentials) -> Identity | None:
        user = self._users.get(shown.user)
        if user is None:
            self._nobody = self._nobody or self._hasher.hash(secrets.token_hex())
        known = user.password_hash.get_secret_value() if user is not None else self._nobody
        try:
            self._hasher.verify(known, shown.secret)
        except (Argon2Error, InvalidHashError):
            return None
        return Identity(user.name, user.role) if user is not None else None

    def _digest(self, shown: Credentials) -> bytes:
        text = f"{len(shown.user)}:{shown.user}{shown.secret}".encode(errors="surrogatepass")
        return hmac.digest(self._key, text, "sha256")

    def _recall(self, shown: Credentials) -> Identity | None:
        digest = self._digest(shown)
        found = self._remembered.get(digest)
        if found is None:
            return None
        if found[1] < self._clock():
            del self._remembered[digest]
            return None
        return found[0]

    def _remember(self, shown: Credentials, identity: Identity) -> None:
        self._remembered[self._digest(shown)] = identity, self._clock() + REMEMBER_SECONDS
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)

    def _hold_off(self, place: str) -> None:
        failures = self._failures.get(place)
        if failures is not None and (left := failures.until - self._clock()) > 0:
            self._outcomes.labels("held_off").inc()
            raise DeniedError("too many wrong logins from this address", 429, int(left) + 1)

    def _failed(self, place: str) -> None:
        failures = self._failures.pop(place, None) or _Failures(0, 0.0)
        failures.count += 1
        over = failures.count - FREE_FAILURES
        if over > 0:
            failures.until = self._clock() + min(2.0 ** min(over, 10), LONGEST_PAUSE_SECONDS)
        self._failures[place] = failures
        while len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)


def place_of(address: str) -> str:
    """Return the key by which failures are counted: an IPv4 address, or the /64 of an IPv6 address, since a host has
    all of it."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)
