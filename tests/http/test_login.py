"""Passwords and tokens: who is let in, who is held off, and that all of it is bounded."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import argon2
import pytest
from pydantic import ValidationError

from collector.http import login as module
from collector.http.login import Credentials, DeniedError, Identity, Login, new_token
from collector.http.settings import AccessError, AccessSettings
from collector.metrics import Metrics

PASSWORD = "correct horse"
# Made by argon2-cffi itself with little work, so that tests are quick; with a salt that stays, since
# the workers of pytest-xdist must find the same tests.
HASH = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD, salt=b"0123456789abcdef")
TOKEN = "a-token-of-a-program"
TOKEN_HASH = "sha256:" + hashlib.sha256(TOKEN.encode()).hexdigest()
SETTINGS = AccessSettings.model_validate(
    {
        "users": [{"name": "ann", "password_hash": HASH, "role": "operator"}],
        "tokens": [{"name": "grafana", "token_hash": TOKEN_HASH}],
    }
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Checks:
    """Runs checks on a thread, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, function: Callable[..., object], *args: object) -> object:
        self.count += 1
        return await asyncio.to_thread(function, *args)


def parts() -> tuple[Login, Clock, Checks, Metrics]:
    clock, checks, metrics = Clock(), Checks(), Metrics()
    return Login(SETTINGS, metrics, checks, clock), clock, checks, metrics  # type: ignore[arg-type]


def ask(login: Login, user: str, secret: str, address: str = "192.0.2.1") -> Identity:
    return asyncio.run(login.identify(Credentials(user, secret), address))


def test_a_right_password_is_checked_once_a_minute() -> None:
    login, clock, checks, metrics = parts()

    assert ask(login, "ann", PASSWORD) == Identity("ann", "operator")
    assert ask(login, "ann", PASSWORD) == Identity("ann", "operator")
    assert checks.count == 1
    clock.now += 61
    ask(login, "ann", PASSWORD)
    assert checks.count == 2
    assert metrics.value("logins_total", outcome="ok") == 3


@pytest.mark.parametrize("user", ["", "default", "grafana"])
def test_a_token_needs_no_slow_check(user: str) -> None:
    login, _, checks, _ = parts()

    assert ask(login, user, TOKEN) == Identity("grafana", "reader")
    assert checks.count == 0


@pytest.mark.parametrize(
    ("user", "secret"),
    [
        ("ann", "wrong"), ("ann", ""), ("bob", PASSWORD), ("", PASSWORD), ("ann", TOKEN), ("", HASH), ("ann", HASH),
        ("", TOKEN_HASH), ("grafana", TOKEN_HASH), ("ann", PASSWORD + " "), ("ann", "x" * 1_000_000),
    ],
)  # fmt: skip
def test_wrong_ones_are_reported_the_same(user: str, secret: str) -> None:
    login, _, _, metrics = parts()

    with pytest.raises(DeniedError, match=r"^wrong name, password or token$") as caught:
        ask(login, user, secret)

    assert caught.value.status == 401
    assert metrics.value("logins_total", outcome="wrong") == 1


def test_unknown_names_take_the_same_slow_check() -> None:
    login, _, checks, _ = parts()
    for user in ("ann", "nobody"):
        with pytest.raises(DeniedError):
            ask(login, user, "wrong")
    assert checks.count == 2


def test_an_address_that_fails_again_and_again_is_held_off() -> None:
    login, clock, checks, metrics = parts()

    def status(address: str, secret: str = "wrong") -> tuple[int, int]:
        try:
            ask(login, "ann", secret, address)
        except DeniedError as error:
            return error.status, error.retry_seconds
        return 200, 0

    assert [status("192.0.2.1")[0] for _ in range(7)] == [401] * 6 + [429]
    assert checks.count == 6
    assert status("192.0.2.1", PASSWORD) == (429, 3), "not even the right one is looked at"
    assert status("192.0.2.2", PASSWORD) == (200, 0), "others are not held off"
    assert status("192.0.2.1", PASSWORD) == (200, 0), "nor is who is known to be right"
    clock.now += 3
    assert [status("192.0.2.1")[0] for _ in range(2)] == [401, 429]
    for _ in range(20):
        clock.now += 100
        assert status("192.0.2.1")[0] == 401
    assert status("192.0.2.1") == (429, 61)
    assert metrics.value("logins_total", outcome="held_off") == 4


def test_a_network_of_ipv6_counts_as_one_address() -> None:
    login, _, _, _ = parts()
    statuses = []
    for host in range(1, 8):
        with pytest.raises(DeniedError) as caught:
            ask(login, "ann", "wrong", f"2001:db8:0:1::{host:x}")
        statuses.append(caught.value.status)
    assert statuses == [401] * 6 + [429]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ADDRESSES", 10)
    login, _, _, _ = parts()
    for number in range(50):
        with pytest.raises(DeniedError):
            ask(login, "ann", "wrong", f"192.0.2.{number}")
    assert len(login._failures) == 10


def test_few_wait_for_a_check() -> None:
    async def run() -> tuple[int, int]:
        going = asyncio.Event()

        async def call(function: Callable[..., object], *args: object) -> object:
            await going.wait()
            return function(*args)

        login = Login(SETTINGS, Metrics(), call)  # type: ignore[arg-type]
        tries = [
            asyncio.create_task(login.identify(Credentials("ann", f"wrong {n}"), f"192.0.2.{n}")) for n in range(20)
        ]
        await asyncio.sleep(0)
        going.set()
        answers = await asyncio.gather(*tries, return_exceptions=True)
        statuses = [answer.status for answer in answers if isinstance(answer, DeniedError)]
        return statuses.count(401), statuses.count(429)

    assert asyncio.run(run()) == (16, 4)


def test_tokens_are_random() -> None:
    token, digest = new_token()
    assert len(token) == 43  # 256 bits, 6 bits a character
    assert digest == "sha256:" + hashlib.sha256(token.encode()).hexdigest()
    assert token != new_token()[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"users": [{"name": "a", "password_hash": "secret"}]}, "no argon2id hash"),
        ({"users": [{"name": "a", "password_hash": HASH.replace("argon2id", "argon2i")}]}, "no argon2id hash"),
        ({"tokens": [{"name": "a", "token_hash": TOKEN}]}, "no token's hash"),
        ({"users": [{"name": "a", "password_hash": HASH}], "anonymous": True}, "leave out the one"),
        (
            {"users": [{"name": "a", "password_hash": HASH}], "tokens": [{"name": "a", "token_hash": TOKEN_HASH}]},
            "more than one login is called a",
        ),
        ({"certificate_file": "/x"}, "belong together"),
    ],
)
def test_mistakes_in_the_settings_are_reported(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AccessSettings.model_validate(values)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_needs_no_login(host: str) -> None:
    AccessSettings().check_address(host, "web.host")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.net", "", "localhost.example.net"])
def test_other_addresses_need_one_or_a_decision(host: str) -> None:
    with pytest.raises(AccessError, match=r"web\.host = .*vmflow passwd.*access\.anonymous"):
        AccessSettings().check_address(host, "web.host")
    SETTINGS.check_address(host, "web.host")
    AccessSettings(anonymous=True).check_address(host, "web.host")
