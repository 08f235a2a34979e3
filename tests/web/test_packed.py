"""Answers in JSON are packed, all others go out as they are, piece by piece."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse

from collector.http.server import HeldResponse, LargeResponse
from collector.web.packed import AT_ONCE, LEAST, MOST, packed


def answer(response: Response, accepts: str = "gzip") -> tuple[dict[str, str], list[bytes], int]:
    """Headers, pieces of the body, and how many calls went to a thread."""
    sent: list[Any] = []
    calls = 0

    async def call(function: Callable[..., Any], *args: Any) -> Any:
        nonlocal calls
        calls += 1
        return function(*args)

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    scope = {"type": "http", "headers": [(b"accept-encoding", accepts.encode())]}
    asyncio.run(packed(response, call)(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert [message.get("more_body", False) for message in sent[1:]][-1] is False
    return headers, [message["body"] for message in sent[1:]], calls


@pytest.mark.parametrize("octets", [LEAST, AT_ONCE + 1, 1_000_000])
def test_an_answer_is_packed_as_a_whole(octets: int) -> None:
    plain = b"[" + b"1," * (octets // 2)
    headers, pieces, calls = answer(LargeResponse([plain[:100], plain[100:]], media_type="application/json"))

    assert headers["content-encoding"] == "gzip"
    assert int(headers["content-length"]) == sum(map(len, pieces)) < octets
    assert gzip.decompress(b"".join(pieces)) == plain
    assert calls == (octets > AT_ONCE), "long work belongs on a thread"


def test_an_answer_that_is_held_is_held_until_it_is_sent() -> None:
    class Held:
        async def __aenter__(self) -> None:
            states.append("held")

        async def __aexit__(self, *error: object) -> None:
            states.append("sent")

    states: list[str] = []
    headers, pieces, _ = answer(HeldResponse([b"x" * 2000], lambda _: Held()))

    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(b"".join(pieces)) == b"x" * 2000
    assert states == ["held", "sent"]


@pytest.mark.parametrize("response", [
    LargeResponse([b"x" * (LEAST - 1)], media_type="application/json"),
    LargeResponse([b"x" * (MOST + 1)], media_type="application/json"),
    LargeResponse([b"x" * 5000], media_type="application/problem+json"),
    LargeResponse([b"x" * 5000], headers={"content-encoding": "gzip"}, media_type="application/json"),
], ids=["short", "long", "another type", "packed already"])  # fmt: skip
def test_what_does_not_suit_goes_out_as_it_is(response: LargeResponse) -> None:
    headers, pieces, calls = answer(response)

    assert int(headers["content-length"]) == sum(map(len, pieces)) == response.octets
    assert calls == 0


def test_a_stream_is_never_held_back() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b"event: window\n\n"
        yield b"event: bye\n\n"

    _, pieces, _ = answer(StreamingResponse(events(), media_type="text/event-stream"))
    assert pieces == [b"event: window\n\n", b"event: bye\n\n", b""]


@pytest.mark.parametrize("accepts", ["", "identity", "br"])
def test_who_does_not_take_it_gets_it_plain(accepts: str) -> None:
    headers, pieces, _ = answer(LargeResponse([b"x" * 5000], media_type="application/json"), accepts)

    assert "content-encoding" not in headers
    assert b"".join(pieces) == b"x" * 5000
