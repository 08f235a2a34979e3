"""The client of the running service's web server: its API, and /health."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import urlencode

import urllib3

from collector.http.settings import AccessSettings
from collector.settings import Settings
from collector.terminal import CommandError, UsageError
from collector.web.settings import WebSettings
from schemas.text import visible

TIMEOUT_SECONDS = 30.0
"""The service answers within 15 s, if only that it cannot."""
ID_DIGITS = 32


class ServiceError(CommandError):
    """No answer, or none that helps; the message says what to do."""


class ApiRefusedError(UsageError):
    """The service refused the request: a mistake in the call."""


class ApiClient:
    """Asks one service.  Methods raise ServiceError and ApiRefusedError; the constructor UsageError for no URL."""

    def __init__(self, url: str, access: AccessSettings | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--url {url}: http://host:port or https://host:port is expected")
        self.url = url.rstrip("/")
        access = access or AccessSettings()
        token = access.client_token.get_secret_value()
        self._login = {"Authorization": f"Bearer {token}"} if token else {}
        self._pool = urllib3.PoolManager(ca_certs=str(access.ca_file) if access.ca_file else None)

    def get(self, path: str, **query: Any) -> Any:
        """The answer to a GET; what is None is left out of the query."""
        given = {name: value for name, value in query.items() if value is not None}
        text = urlencode(given, doseq=True)
        return self._ask("GET", f"{path}?{text}" if text else path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a POST; None for one without content."""
        return self._ask("POST", path, json.dumps(body).encode())

    def alert_id(self, begin: str) -> str:
        """The whole id of the one alert whose id begins so."""
        if len(whole_id(begin)) == ID_DIGITS:
            return begin
        found = self.get("/alerts", id=begin, limit=2)["alerts"]
        if len(found) != 1:
            raise ApiRefusedError(
                f"{begin}: {'several alerts have ids' if found else 'no alert has an id'} that begin so"
            )
        return str(found[0]["alert_id"])

    def health(self) -> bytes:
        """What /health answers, whether or not all is well there."""
        return self._request("GET", "/health", None).data

    def _request(self, method: str, path: str, body: bytes | None) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request(
                method,
                f"{self.url}{path}",
                body=body,
                headers=self._login | ({"Content-Type": "application/json"} if body is not None else {}),
                timeout=TIMEOUT_SECONDS,
                retries=False,
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise ServiceError(
                f"no service answers at {self.url}: {_reason(error)}; is `vmflow run` running there? "
                "web.host and web.port of the settings say where"
            ) from error

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        answer = self._request(method, f"/api/v1{path}", body)
        if answer.status == 204:
            return None
        try:
            content = json.loads(answer.data)
        except ValueError as error:
            raise ServiceError(f"{self.url} is not vmflow's API: HTTP {answer.status}, no JSON") from error
        if answer.status < 300:
            return content
        detail = content.get("detail", "") if isinstance(content, dict) else ""
        lines = [
            f"{visible(str(detail)) or 'no reason given'} (HTTP {answer.status})",
            *(visible(str(error)) for error in (content.get("errors") or [] if detail else [])),
        ]
        raise (ApiRefusedError if answer.status == 422 else ServiceError)("\n".join(lines))


def whole_id(text: str) -> str:
    """The same text, if it is an id or the begin of one.  Raises ApiRefusedError."""
    if re.fullmatch(f"[0-9a-f]{{1,{ID_DIGITS}}}", text) is None:
        raise ApiRefusedError(f"{text}: an id is expected, of up to {ID_DIGITS} hexadecimal digits")
    return text


def client_of(url: str | None, settings: Settings) -> ApiClient:
    """A client of the service at `url`, else of the one with these settings.  Raises UsageError where there is none."""
    scheme = "https" if settings.access.certificate_file else "http"
    return ApiClient(url or url_of(settings.web, scheme), settings.access)


def url_of(settings: WebSettings, scheme: str = "http") -> str:
    """Where a service with these settings answers on this machine.  Raises UsageError where that cannot be said."""
    if not settings.enabled:
        raise UsageError("web.enabled = false: the API is off; give --url for another service")
    if settings.port == 0:
        raise UsageError("web.port = 0: the service takes any port; give --url, its log says which")
    host = settings.host
    try:
        address = ip_address(host)
    except ValueError:
        return f"{scheme}://{host}:{settings.port}"
    if address.is_unspecified:
        host = "::1" if isinstance(address, IPv6Address) else "127.0.0.1"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _reason(error: Exception) -> str:
    """The last part of what the library says: it begins with the object's name."""
    return str(error).rsplit(": ", 1)[-1]
