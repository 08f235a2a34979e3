"""Sessions of browsers end by themselves, are few, and their cookies are kept from scripts and other sites."""

from __future__ import annotations

from collector.http.login import Identity
from collector.http.sessions import IDLE_SECONDS, LONGEST_SECONDS, MOST, MOST_OF_ONE, Sessions, cookie, secrets_of

ANN = Identity("ann", "operator")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_session_ends_after_hours_without_a_request_or_after_half_a_day() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    idle, busy, closed = (sessions.open(ANN) for _ in range(3))
    sessions.close(closed)

    assert len({idle, busy, closed}) == 3
    assert sessions.find(closed) is None
    while clock.now < LONGEST_SECONDS:
        clock.now += IDLE_SECONDS / 2
        assert sessions.find(busy) == ANN
    assert not sessions.lasts(idle)
    assert sessions.find(idle) is None
    assert sessions.lasts(busy)
    clock.now += 1
    assert not sessions.lasts(busy)
    assert sessions.find(busy) is None
    assert sessions.find("") is None


def test_the_one_that_was_used_longest_ago_gives_way() -> None:
    sessions = Sessions(Clock())
    first, second = sessions.open(ANN), sessions.open(ANN)
    assert sessions.find(first) == ANN
    for number in range(MOST - 1):
        sessions.open(Identity(f"user-{number}", "reader"))

    assert sessions.find(second) is None
    assert sessions.find(first) == ANN


def test_a_user_who_logs_in_again_and_again_ends_own_sessions_only() -> None:
    sessions = Sessions(Clock())
    other = sessions.open(Identity("bob", "reader"))
    mine = [sessions.open(ANN) for _ in range(2 * MOST)]

    assert [sessions.find(secret) is not None for secret in mine[-MOST_OF_ONE - 1 :]] == [False] + [True] * MOST_OF_ONE
    assert sessions.find(other) is not None


def test_cookies() -> None:
    plain, safe = cookie("s3cret", tls=False), cookie("s3cret", tls=True)

    assert "HttpOnly; SameSite=Strict" in plain
    assert "Secure" not in plain
    assert safe.startswith("__Host-vmflow=s3cret; Path=/;")
    assert safe.endswith("; Secure")
    assert "Max-Age=0" in cookie("", tls=False)
    assert secrets_of("a=b; vmflow=s3cret", tls=False)[0] == "s3cret"
    # Other services of the same host set what they like.
    for foreign in ('foo={"a":1}', "x", "n=a b", 'q="a;b"'):
        assert secrets_of(f"{foreign}; vmflow=s3cret", tls=False)[0] == "s3cret"
    assert secrets_of("xvmflow=a; vmflow =b", tls=False) == []
    # Behind a proxy that ends TLS the browser shows the safe one, which counts before one that anybody may have set.
    assert secrets_of("vmflow=other; __Host-vmflow=s3cret", tls=False)[0] == "s3cret"
    assert secrets_of("vmflow=other; __Host-vmflow=s3cret", tls=False) == ["s3cret", "other"]
    # Over TLS, one that plain HTTP may have set does not count.
    assert secrets_of("vmflow=s3cret", tls=True) == []
    assert secrets_of("\x00=;;=,", tls=False) == []
