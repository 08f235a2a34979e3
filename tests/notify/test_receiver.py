"""Permanent or not: codes of HTTP and SMTP in the messages of a library."""

from __future__ import annotations

import pytest

from collector.notify.receiver import of_http, of_texts


@pytest.mark.parametrize(("status", "ok"), [(200, True), (204, True), (301, False), (404, False), (500, False)])
def test_only_success_is_success(status: int, ok: bool) -> None:
    assert of_http(status).ok is ok


@pytest.mark.parametrize(
    ("texts", "permanent", "reason"),
    [
        (["Failed to send JSON POST notification: error=500."], False, "HTTP 500"),
        (["Failed to send WeCom Bot notification: Unauthorized, error=401."], True, "HTTP 401"),
        (["Failed: Too many requests, error=429."], False, "HTTP 429"),
        (["to 1: error=404.", "to 2: error=503."], False, "HTTP 404, HTTP 503"),
        (["Socket Exception: (535, b'5.7.8 authentication failed')"], True, "SMTP 535"),
        (["Socket Exception: {'a@b': (451, b'4.7.1 greylisted')}"], False, "SMTP 451"),
        (["SMTP recipient a@b was refused: 550 b'no such user'"], True, "SMTP 550"),
        (["Max retries exceeded with url: /token (Connection refused)"], False, "Connection refused"),
        (["Failed to send 1 to 1555 SMSEagle phone notification: error=200."], False, "HTTP 200 with a refusal"),
        (["The token abc is wrong"], False, "not accepted, no reason given"),
        ([], False, "not accepted, no reason given"),
    ],
)
def test_what_a_library_says(texts: list[str], permanent: bool, reason: str) -> None:
    answer = of_texts(texts)

    assert (answer.ok, answer.permanent, answer.reason) == (False, permanent, reason)
