"""What every receiver has: how a message is sent, and the outcome of an attempt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from collector.interfaces import NotificationGroup

RETRIED_STATUS = frozenset({408, 421, 423, 425, 429})
"""HTTP codes below 500 that may be temporary: time-outs, too early, too many requests (RFC 9110, RFC 6585)."""

TROUBLES = (
    "Connection refused", "Connection reset", "Network is unreachable", "No route to host",
    "Name or service not known", "Temporary failure in name resolution", "certificate verify failed",
    "WRONG_VERSION_NUMBER", "timed out",
)  # fmt: skip
"""What may be shown of an error message of a library.  Nothing else of it is passed on: it may quote the address, and
addresses of receivers have secrets in them."""

BUSY_CODES = frozenset({-1, 40014, 42001, 45009, 45033})
"""Temporary `errcode` values of WeCom: busy, token out of date, too many messages, too many at once.  Others are
mistakes."""

_ERRCODE = re.compile(r"\berrcode=(-?\d{1,9})\b")
_HTTP = re.compile(r"\berror=(\d{3})\b")
_SMTP = re.compile(r"\((\d{3}), b?['\"]|\brefused: (\d{3}) ")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one attempt."""

    ok: bool
    permanent: bool
    """Another attempt would end the same way."""
    reason: str
    """For logs and people; made of fixed texts, never of the receiver's, so that it cannot hold a secret."""


DELIVERED = Outcome(True, False, "delivered")


class NotifyError(Exception):
    """A receiver cannot be used with its settings; the message names the setting and says what was expected."""


class Receiver(Protocol):
    """One receiver.  Its methods block; they are called by one thread at a time."""

    refresh_seconds: float | None
    """How often `refresh` is due; None: never."""
    not_kept: int
    """Firing alerts that found no room among those that `refresh` repeats; running total."""

    def open(self) -> None:
        """Read the secrets and prepare.  Sends nothing.  Raises NotifyError."""

    def send(self, group: NotificationGroup, /) -> Outcome:
        """Send one message, once."""

    def refresh(self) -> Outcome:
        """Repeat what the receiver would otherwise drop."""

    def remember(self, group: NotificationGroup, /) -> None:
        """Take alerts that fire already and were delivered before this process began, for `refresh`."""


def of_http(status: int) -> Outcome:
    """Return the outcome of an HTTP status code."""
    if 200 <= status < 300:
        return DELIVERED
    return Outcome(False, status < 500 and status not in RETRIED_STATUS, f"HTTP {status}")


def _of_failure(status: int) -> Outcome:
    """Some services answer 200 and refuse the message in the text."""
    return Outcome(False, False, f"HTTP {status} with a refusal") if status < 300 else of_http(status)


def of_smtp(code: int) -> Outcome:
    """Return the outcome of a failing SMTP reply code: 5yz is permanent (RFC 5321 section 4.2.1)."""
    return Outcome(False, code >= 500, f"SMTP {code}")


def of_texts(texts: list[str]) -> Outcome:
    """Return the outcome from a library's messages about a failure: codes of HTTP, SMTP and WeCom, or a known problem.

    With several codes (a message to several people) it is permanent only if all are.
    """
    found = [_of_failure(int(code)) for text in texts for code in _HTTP.findall(text)]
    for text in texts:
        found += [Outcome(False, int(code) not in BUSY_CODES, f"WeCom {code}") for code in _ERRCODE.findall(text)]
        found += [of_smtp(int(one or other)) for one, other in _SMTP.findall(text) if int(one or other) >= 400]
    if found:
        reason = ", ".join(sorted({answer.reason for answer in found}))
        return Outcome(False, all(answer.permanent for answer in found), reason)
    troubles = [trouble for trouble in TROUBLES if any(trouble in text for text in texts)]
    return Outcome(False, False, ", ".join(troubles) or "not accepted, no reason given")
