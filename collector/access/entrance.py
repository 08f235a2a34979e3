"""The entrance that all HTTP servers of the process share: one login, one certificate."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from starlette.types import ASGIApp

from collector.access.gate import Gate, Refuse, plain_refusal
from collector.access.login import Login
from collector.access.settings import AccessSettings
from collector.access.tls import replace_certificate, server_context
from collector.metrics import Metrics
from collector.ports import Call

SECTION = "access"


class Entrance:
    """Makes gates and TLS contexts; opens no file before it is asked for one.  `call` is for checks of passwords."""

    def __init__(self, settings: AccessSettings, metrics: Metrics, call: Call) -> None:
        self._settings = settings
        self._login = Login(settings, metrics, call)
        self._contexts: list[ssl.SSLContext] = []

    @property
    def scheme(self) -> str:
        """`https` or `http`."""
        return "https" if self._settings.certificate_file is not None else "http"

    @property
    def names(self) -> tuple[str, ...]:
        """Names under which clients may reach the servers."""
        return self._settings.names

    def gate(self, app: ASGIApp, *, only_reads: bool = False, refuse: Refuse = plain_refusal) -> ASGIApp:
        """`app` behind a gate."""
        return Gate(app, self._login, only_reads=only_reads, refuse=refuse)

    def context(self) -> ssl.SSLContext | None:
        """A TLS context for a server, None without a certificate.  Raises AccessError."""
        if self._settings.certificate_file is None or self._settings.key_file is None:
            return None
        context = server_context(SECTION, self._settings.certificate_file, self._settings.key_file)
        self._contexts.append(context)
        return context

    def read_again(self) -> Callable[[], None]:
        """Read certificate and key again.  Blocks.  Raises AccessError; then the old ones stay.

        Returns what takes them over for new connections, for the event loop's thread.
        """
        if not self._contexts or self._settings.certificate_file is None or self._settings.key_file is None:
            return lambda: None
        fresh = server_context(SECTION, self._settings.certificate_file, self._settings.key_file)
        return lambda: replace_certificate(self._contexts, fresh)
