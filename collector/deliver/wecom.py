"""The WeCom group bot of apprise, which also looks at what WeCom answers.

WeCom answers status 200 to a wrong key or to too many messages, too, and says so by `errcode` in the text; apprise 2.3
takes all of these for delivered.  Source: https://developer.work.weixin.qq.com/document/path/91770 (bot) and 90313
(codes).
"""

from __future__ import annotations

import json
from typing import Any

import requests
from apprise import NotifyType
from apprise.plugins.wecombot import NotifyWeComBot


class WeComBot(NotifyWeComBot):  # type: ignore[no-untyped-call]  # a hook of apprise without types
    """Sends text to one group.  Its URL is apprise's: `wecombot://KEY`."""

    @classmethod
    def of(cls, service: NotifyWeComBot) -> WeComBot:
        """The same bot."""
        made = cls(key=service.key, asset=service.asset)
        made.verify_certificate = service.verify_certificate
        return made

    def send(self, body: str, title: str = "", notify_type: NotifyType = NotifyType.INFO, **kwargs: Any) -> bool:
        """Send one message; whether WeCom took it.  Why not is logged, as apprise does it."""
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
    """`errcode` of an answer; -1 (busy, by WeCom's list) where there is none."""
    try:
        code = json.loads(answer)["errcode"]
    except (ValueError, KeyError, TypeError):
        return -1
    return code if isinstance(code, int) else -1
