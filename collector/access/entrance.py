"""The entrance that all HTTP servers of the process share: one login, one certificate."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from starlette.types import ASGIApp

from collector.access.gate import Gate, Refuse, problem
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
        self._refused = metrics.counter(
            "requests_refused_total", "HTTP requests that were not let in, by reason.", ("reason",)
        )
        self._failed = metrics.counter("requests_failed_total", "HTTP requests that a defect of ours ended.")

    @property
    def scheme(self) -> str:
        """`https` or `http`."""
        return "https" if self._settings.certificate_file is not None else "http"

    def gate(self, app: ASGIApp, host: str, *, only_reads: bool = False, refuse: Refuse = problem) -> ASGIApp:
        """`app`, which listens at `host`, behind a gate."""
        names = (host, *self._settings.names)
        return Gate(app, self._login, names, self._refused, self._failed, only_reads=only_reads, refuse=refuse)

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
