"""Prometheus' Alertmanager, API v2: alerts as labels and annotations, sent again for as long as they fire.

Alertmanager drops an alert that is not sent again: `endsAt` of a firing alert is four intervals ahead, as in
Prometheus, and each refresh moves it on.  Source: api/v2/openapi.yaml of Alertmanager 0.25, and rules/manager.go
(ResolveTime) of Prometheus.
"""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3

from collector.figures import SECOND_US
from collector.interfaces import AlertNotification, NotificationGroup
from collector.notify.message import render, shown
from collector.notify.receiver import DELIVERED, TROUBLES, NotifyError, Outcome, of_http
from collector.notify.settings import ReceiverSettings

PATH = "/api/v2/alerts"
BATCH = 500
"""Alerts of one request, about 2 MB."""
LASTS = 4
"""Intervals that an alert stays firing without being sent again."""
ANSWER_BYTES = 4096

_NOT_LABEL = re.compile(r"[^A-Za-z0-9_]")

Alert = dict[str, Any]


class AlertmanagerReceiver:
    """One Alertmanager."""

    def __init__(self, name: str, settings: ReceiverSettings, public_url: str) -> None:
        self._name = name
        self._settings = settings
        self._public_url = public_url
        self.refresh_seconds: float | None = settings.resend_seconds
        self._firing: dict[str, AlertNotification] = {}
        """By fingerprint: what must be sent again."""
        self.not_kept = 0
        self._pool = urllib3.PoolManager()
        self._url = ""
        self._headers: dict[str, str] = {}

    def open(self) -> None:
        """Read the URL.  Sends nothing.  Raises NotifyError."""
        parts = urlsplit(self._settings.read_url(self._name))
        port = f":{parts.port}" if parts.port else ""
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self._url = f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}{PATH}"
        self._headers = {"Content-Type": "application/json", "User-Agent": "vmflow"}
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode('ascii')}"
        ca_file = self._settings.ca_file
        if ca_file is not None and not ca_file.is_file():
            raise NotifyError(f"notify.receivers.{self._name}.ca_file: {ca_file}: no such file")
        self._pool = urllib3.PoolManager(ca_certs=str(ca_file) if ca_file else None, maxsize=1)

    def remember(self, group: NotificationGroup, /) -> None:
        """Send these alerts again from the next refresh on."""
        for notification in group.notifications:
            self._keep(notification)

    def send(self, group: NotificationGroup, /) -> Outcome:
        """Send the alerts of a group.  An acknowledgement means nothing to Alertmanager."""
        self.remember(group)
        return self._post([one for one in group.notifications if one.event != "acknowledged"])

    def refresh(self) -> Outcome:
        """Send all firing alerts again."""
        return self._post(list(self._firing.values()))

    def _keep(self, notification: AlertNotification) -> None:
        if notification.event == "resolved":
            self._firing.pop(notification.fingerprint, None)
        elif notification.fingerprint in self._firing or len(self._firing) < self._settings.max_firing:
            self._firing[notification.fingerprint] = notification
        else:
            self.not_kept += 1

    def _post(self, notifications: list[AlertNotification]) -> Outcome:
        """Post all of them, in several requests if they are many; end with the first that is not accepted."""
        for first in range(0, len(notifications), BATCH):
            answer = self._request([self._alert(notification) for notification in notifications[first : first + BATCH]])
            if not answer.ok:
                return answer
        return DELIVERED

    def _request(self, alerts: list[Alert]) -> Outcome:
        timeout = self._settings.timeout_seconds
        try:
            response = self._pool.request(
                "POST",
                self._url,
                body=json.dumps(alerts).encode(),
                headers=self._headers,
                timeout=urllib3.Timeout(total=timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            response.read(ANSWER_BYTES)
            response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            text = str(error)
            return Outcome(False, False, ", ".join(trouble for trouble in TROUBLES if trouble in text) or "no answer")
        return of_http(response.status)

    def _alert(self, notification: AlertNotification) -> Alert:
        """Return one alert in the API's form.  Labels are its identity: nothing in them changes while it fires."""
        ended = notification.event == "resolved"
        lasts = timedelta(seconds=LASTS * self._settings.resend_seconds)
        ends = _time(notification.now_us) if ended else (datetime.fromtimestamp(time.time(), UTC) + lasts)
        alert: Alert = {
            "labels": dict(_labels(notification)),
            "annotations": self._annotations(notification),
            "startsAt": _time(min(notification.since_us, notification.now_us)).isoformat(),
            "endsAt": ends.isoformat(),
        }
        if url := self._public_url or notification.runbook:
            alert["generatorURL"] = url
        return alert

    def _annotations(self, notification: AlertNotification) -> dict[str, str]:
        message = render(NotificationGroup("", notification.severity, (), (notification,)), self._settings.language, 1)
        annotations = {"summary": message.title, "description": message.text}
        if notification.runbook:
            annotations["runbook_url"] = notification.runbook
        if notification.sql:
            annotations["sql"] = notification.sql
        return annotations


def _labels(notification: AlertNotification) -> Iterator[tuple[str, str]]:
    """Yield the labels that are not empty; names as Prometheus allows them."""
    for name, text in notification.labels.items():
        if text:
            label = _NOT_LABEL.sub("_", name)
            yield (label if not label[:1].isdigit() else f"_{label}"), shown(text)
    yield "alertname", shown(notification.rule)
    yield "severity", notification.severity
    yield "scope", notification.scope
    # Two series may have the same names: VMs are distinguished by their UUIDs, which are not labels.
    yield "fingerprint", notification.fingerprint


def _time(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us / SECOND_US, UTC)
