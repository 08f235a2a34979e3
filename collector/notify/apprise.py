"""Receivers of apprise: mail, SMS gateways, WeCom, webhooks and the rest, one object per receiver.

apprise reports that a message was accepted, or logs why not.  Its log is used only for the outcome, to read codes from
it: it quotes addresses, and with them secrets.

The bot of WeCom groups is implemented here.  WeCom also answers status 200 to a wrong key or to too many messages, and
reports them by `errcode` in the text; apprise 2.3 counts all of these as delivered.  Source:
https://developer.work.weixin.qq.com/document/path/91770 (bot) and 90313 (codes).
"""

from __future__ import annotations

import json
import logging
from typing import Any

import apprise
import requests
from apprise import AppriseAsset, NotifyBase, NotifyFormat, NotifyType
from apprise.plugins.wecombot import NotifyWeComBot

from collector.interfaces import NotificationGroup, Severity
from collector.notify.message import render
from collector.notify.receiver import DELIVERED, NotifyError, Outcome, of_texts
from collector.notify.settings import Language, ReceiverSettings

SHORT_BELOW = 320
"""Services that accept no more characters than this are SMS gateways: two parts at most."""

QUIET = ("apprise", "urllib3.connectionpool", "requests_oauthlib", "oauthlib")
"""Libraries whose logs quote addresses of receivers."""

TYPES: dict[Severity, NotifyType] = {
    "critical": NotifyType.FAILURE,
    "warning": NotifyType.WARNING,
    "info": NotifyType.INFO,
}


class AppriseReceiver:
    """One receiver behind an apprise URL."""

    refresh_seconds: float | None = None
    not_kept = 0

    def __init__(self, name: str, settings: ReceiverSettings, public_url: str = "") -> None:
        self._name = name
        self._settings = settings
        self._apprise = apprise.Apprise()
        self._most = 0

    def open(self) -> None:
        """Read the URL and pass it to apprise.  Sends nothing.  Raises NotifyError."""
        quieten()
        service = _service(self._name, self._settings.read_url(self._name))
        # Per read and per connect; the worker holds the time of the whole attempt.
        service.socket_read_timeout = service.socket_connect_timeout = self._settings.timeout_seconds
        if service.request_rate_per_sec == NotifyBase.request_rate_per_sec:
            # The pause of 5.5 s is not a service's limit but apprise's default; the limit here is `per_minute`.
            service.request_rate_per_sec = 0
        self._most = int(service.body_maxlen)
        self._apprise = apprise.Apprise(asset=service.asset)
        self._apprise.add(service)

    def send(self, group: NotificationGroup, /) -> Outcome:
        """Send one message, once."""
        title, body = self._written(group)
        resolved = all(notification.event == "resolved" for notification in group.notifications)
        result = self._apprise.notify(
            body=body,
            title=title,
            notify_type=NotifyType.SUCCESS if resolved else TYPES[group.severity],
            body_format=NotifyFormat.TEXT,
            log_level=logging.DEBUG,
        )
        if result:
            return DELIVERED
        attempts = [attempt for service in result.results for attempt in service.attempts]
        return of_texts([entry.message for attempt in attempts for entry in attempt.logs])

    def refresh(self) -> Outcome:
        """Nothing needs to be repeated."""
        return DELIVERED

    def remember(self, group: NotificationGroup, /) -> None:
        """Do nothing: people need no repetition."""

    def _written(self, group: NotificationGroup) -> tuple[str, str]:
        """Return title and body in the form that the service accepts."""
        form, lines, language = self._settings.form, self._settings.lines, self._settings.language
        if form == "short" or (form == "auto" and self._most <= SHORT_BELOW):
            return "", render(group, language, lines).short
        return fitted(group, language, lines, self._most)


def fitted(group: NotificationGroup, language: Language, lines: int, octets: int) -> tuple[str, str]:
    """Return title and body of at most `octets` octets of UTF-8 together: with fewer lines, or in the short form if
    necessary.

    Services that count characters accept more than this; those that count octets (WeCom) would refuse the message.
    """
    message = render(group, language, lines)
    while _bytes(message.title, message.text) > octets and lines > 1:
        lines //= 2
        message = render(group, language, lines)
    if _bytes(message.title, message.text) <= octets:
        return message.title, message.text
    body = message.text.encode()[: max(0, octets - _bytes(message.title, ""))].decode("utf-8", "ignore")
    return (message.title, body) if body else ("", message.short)


def _bytes(title: str, text: str) -> int:
    return len(title.encode()) + len(text.encode()) + 2


def quieten() -> None:
    """Keep addresses of receivers out of the log, whatever its level."""
    for name in QUIET:
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    # Its details are written at this level only, and read from its answer.
    logging.getLogger("apprise").setLevel(logging.DEBUG)


def _service(name: str, url: str) -> NotifyBase:
    """Return the service that a URL names.  Raises NotifyError, which does not quote the URL."""
    where = f"notify.receivers.{name}"
    asset = AppriseAsset(
        app_id="vmflow",
        app_desc="vmflow alerts",
        service_timeout=0,  # else apprise gives calls to threads of its own, which a dead receiver would use up
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        allow_templates=False,
        async_mode=False,
        http_redirects=False,  # a redirected POST becomes a GET without a message, which then counts as delivered
        default_service_retry=0,
        pgp_autogen=False,
        pem_autogen=False,
    )
    try:
        service = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    except Exception:  # noqa: BLE001 - of any plugin; not chained: it could quote the URL
        service = None
    if not isinstance(service, NotifyBase):
        raise NotifyError(
            f"{where}: no URL that apprise takes; https://appriseit.com/services/ says how those of each service look"
        )
    if not service.enabled:
        raise NotifyError(f"{where}: apprise needs another package for {service.service_name}, which is not installed")
    return WeComBot.of(service) if type(service) is NotifyWeComBot else service


class WeComBot(NotifyWeComBot):  # type: ignore[no-untyped-call]  # a hook of apprise without types
    """The sender of text to one WeCom group, which reads WeCom's answer.  Its URL is apprise's: `wecombot://KEY`."""

    @classmethod
    def of(cls, service: NotifyWeComBot) -> WeComBot:
        """The same bot."""
        made = cls(key=service.key, asset=service.asset)
        made.verify_certificate = service.verify_certificate
        return made

    def send(self, body: str, title: str = "", notify_type: NotifyType = NotifyType.INFO, **kwargs: Any) -> bool:
        """Send one message; return whether WeCom accepted it.  If not, the reason is logged, as in apprise."""
        payload = json.dumps({"msgtype": "text", "text": {"content": body}})
        try:
            response = requests.post(
                self.api_url,
                data=payload.encode(),
                headers={"User-Agent": self.app_id, "Content-Type": "application/json; charset=utf-8"},
                verify=self.verify_certificate,
                timeout=self.request_timeout,
                allow_redirects=self.redirects,
            )
        except requests.RequestException as error:
            self.logger.debug("Socket Exception: %s", error)
            return False
        if response.status_code != requests.codes.ok:
            self.logger.warning("WeCom: error=%d", response.status_code)
            return False
        code = _code(response.content)
        if code:
            self.logger.warning("WeCom: errcode=%d", code)
        return code == 0


def _code(answer: bytes) -> int:
    """Return `errcode` of an answer; -1 (busy, by WeCom's list) where there is none."""
    try:
        code = json.loads(answer)["errcode"]
    except (ValueError, KeyError, TypeError):
        return -1
    return code if isinstance(code, int) else -1
