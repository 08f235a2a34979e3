"""apprise against real servers: what mail, webhooks, SMS gateways and WeCom are sent, and what comes back."""

from __future__ import annotations

import io
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from pydantic import SecretStr

from collector.interfaces import AlertNotification
from collector.log import LogSettings, setup
from collector.notify.apprise import AppriseReceiver, fitted
from collector.notify.message import render
from collector.notify.receiver import Outcome
from collector.notify.settings import ReceiverSettings
from tests.hostile.nasty import NASTY, SURROGATE, harmless
from tests.notify.support import LOSS, endpoint, group, loss


class Mailbox:
    """Keeps what an SMTP server takes; gives the answers it is set to."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if self.replies:
            return self.replies.pop(0)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.recipients.append(envelope.rcpt_tos)
        return "250 OK"


@contextmanager
def mail_server(mailbox: Mailbox) -> Iterator[int]:
    """An SMTP server on loopback; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


def opened(url: str, **values: Any) -> AppriseReceiver:
    made = AppriseReceiver("ops", ReceiverSettings(url=SecretStr(url), timeout_seconds=5, **values))
    made.open()
    return made


def mail_url(port: int) -> str:
    return f"mailto://127.0.0.1:{port}/?from=vmflow@example.net&to=ops@example.net&mode=insecure"


def test_mail() -> None:
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        answers = [opened(mail_url(port), language=language).send(group()) for language in ("en", "zh")]

    assert [answer.ok for answer in answers] == [True, True]
    assert mailbox.recipients == [["ops@example.net"]] * 2
    english, chinese = mailbox.mails
    assert english["Subject"] == "[FIRING critical] web-1 → db-1 loss 6.1 % [4.8–7.5 %] (pair_loss)"
    assert chinese["Subject"] == "[告警 严重] web-1 → db-1 丢包率 6.1 % [4.8–7.5 %] (pair_loss)"
    for mail, language in ((english, "en"), (chinese, "zh")):
        body = mail.get_body(("plain",))
        assert body is not None
        text = render(group(), "zh" if language == "zh" else "en", 10).text
        assert body.get_content().split() == text.split()


def test_hostile_names_make_no_header() -> None:
    mailbox = Mailbox()
    hostile = replace(LOSS, labels={"src_vm": "x\r\nBcc: all@example.net", "dst_vm": "<script>"})
    with mail_server(mailbox) as port:
        assert opened(mail_url(port)).send(group(hostile)).ok

    (mail,) = mailbox.mails
    assert mail["Bcc"] is None
    assert mail.get_content_type() == "text/plain"  # so markup in names is none
    assert "<script>" in mail.get_content()
    assert mailbox.recipients == [["ops@example.net"]]


def nasty(number: int, text: str) -> AlertNotification:
    """An alert all of whose texts are nasty."""
    return loss(number, labels={"src_vm": text, "dst_vm": text, text: text}, rule=text, evidence=text, summary=text,
                runbook=text, sql=text, measure=text, unit=text)  # fmt: skip


@pytest.mark.parametrize("text", [*NASTY, SURROGATE])
def test_nasty_names_in_a_mail(text: str) -> None:
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        for language in ("en", "zh"):
            assert opened(mail_url(port), language=language).send(group(nasty(1, text))).ok
        assert opened(mail_url(port)).send(group(*[nasty(number, text) for number in range(3)])).ok

    for mail in mailbox.mails:
        headers = {"Subject", "From", "To", "Message-ID", "Date", "X-Application", "Content-Type", "MIME-Version",
                   "Content-Transfer-Encoding", "Reply-To", "X-Peer", "X-MailFrom", "X-RcptTo"}  # fmt: skip
        assert set(mail.keys()) <= headers
        assert mail["To"] == "ops@example.net"
        assert all(harmless(value) for value in mail.values())
        assert harmless(mail.get_content(), but="\r\n")
    assert mailbox.recipients == [["ops@example.net"]] * 3


@pytest.mark.parametrize("text", [*NASTY, SURROGATE])
def test_nasty_names_in_webhooks_and_short_messages(text: str) -> None:
    with endpoint() as server:
        assert opened(f"json://{server.address}/hook").send(group(nasty(1, text))).ok
        assert opened(f"json://{server.address}/hook", form="short").send(group(nasty(1, text))).ok
        server.answer = b'{"errcode":0,"errmsg":"ok"}'
        bot = opened("wecombot://key-of-ours/")
        next(iter(bot._apprise)).api_url = f"http://{server.address}/send"
        assert bot.send(group(nasty(1, text), nasty(2, text))).ok

    full, short, wecom = (request.json for request in server.requests)
    assert harmless(full["title"])
    assert harmless(full["message"], but="\n")
    assert harmless(short["message"])
    assert harmless(wecom["text"]["content"], but="\n\r")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("451 4.7.1 greylisted, come back", Outcome(False, False, "SMTP 451")),
        ("550 5.7.1 we do not want this", Outcome(False, True, "SMTP 550")),
    ],
)
def test_a_mail_server_that_does_not_want_it(reply: str, expected: Outcome) -> None:
    mailbox = Mailbox(reply)
    with mail_server(mailbox) as port:
        made = opened(mail_url(port))
        assert made.send(group()) == expected
        assert made.send(group()).ok

    assert len(mailbox.mails) == 1


def test_webhook() -> None:
    with endpoint() as server:
        assert opened(f"json://{server.address}/hook").send(group()).ok
        assert opened(f"json://{server.address}/hook").send(group(replace(LOSS, event="resolved"))).ok

    fired, resolved = server.requests
    assert fired.path == "/hook"
    assert fired.json["title"] == "[FIRING critical] web-1 → db-1 loss 6.1 % [4.8–7.5 %] (pair_loss)"
    assert fired.json["message"].split("\n") == render(group(), "en", 10).text.split("\n")
    assert (fired.json["type"], resolved.json["type"]) == ("failure", "success")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (500, Outcome(False, False, "HTTP 500")),
        (403, Outcome(False, True, "HTTP 403")),
        (302, Outcome(False, True, "HTTP 302")),
    ],
)
def test_a_webhook_that_does_not_take_it(status: int, expected: Outcome) -> None:
    with endpoint(status) as server:
        assert opened(f"json://{server.address}/hook").send(group()) == expected

    assert len(server.requests) == 1


def test_sms_gateway_is_sent_140_characters() -> None:
    """httpSMS: its address is fixed, so it is pointed at a server of ours."""
    many = group(*[loss(number, labels={"src_vm": "a" * 80, "dst_vm": "b" * 80}) for number in range(40)])
    with endpoint() as server:
        made = opened("httpsms://key-of-ours@15551234567/15557654321")
        (service,) = made._apprise
        service.notify_url = f"http://{server.address}/v1/messages/send"
        assert made.send(many).ok

    (request,) = server.requests
    assert request.json["to"] == "+15557654321"
    assert request.json["from"] == "+15551234567"
    assert request.headers["x-api-key"] == "key-of-ours"
    assert request.json["content"] == render(many, "en", 10).short
    assert len(request.json["content"]) <= 140


def test_sms_gateway_of_ones_own() -> None:
    """SMSEagle: a box in the network, which takes long texts, so the short form is asked for."""
    with endpoint() as server:
        server.answer = b'{"result": [{"message_id": 748, "status": "ok"}]}'
        assert (
            opened(f"smseagle://token-of-ours@{server.address}/15557654321", form="short", language="zh")
            .send(group())
            .ok
        )

    (request,) = server.requests
    assert request.json["params"]["to"] == "15557654321"
    assert request.json["params"]["message"] == render(group(), "zh", 10).short


def test_wecom() -> None:
    with endpoint() as server:
        server.answer = b'{"errcode":0,"errmsg":"ok"}'
        made = opened("wecombot://key-of-ours/", language="zh")
        (service,) = made._apprise
        assert service.api_url == "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=key-of-ours"
        service.api_url = f"http://{server.address}/cgi-bin/webhook/send?key=key-of-ours"
        assert made.send(group(*[loss(number) for number in range(200)])).ok

    (request,) = server.requests
    assert request.path == "/cgi-bin/webhook/send?key=key-of-ours"
    assert request.json["msgtype"] == "text"
    content = request.json["text"]["content"]
    assert content.startswith("[告警 严重] 200 条告警：")
    assert "阈值：1 %" in content
    # https://developer.work.weixin.qq.com/document/path/91770: at most 2048 octets of UTF-8.
    assert len(content.encode()) <= 2048


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"errcode":93000,"errmsg":"invalid webhook url"}', Outcome(False, True, "WeCom 93000")),
        ('{"errcode":45009,"errmsg":"api freq out of limit"}', Outcome(False, False, "WeCom 45009")),
        ("<html>", Outcome(False, False, "WeCom -1")),
    ],
)
def test_wecom_says_no_with_status_200(text: str, expected: Outcome) -> None:
    with endpoint() as server:
        server.answer = text.encode()
        made = opened("https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=key-of-ours")
        (service,) = made._apprise
        service.api_url = f"http://{server.address}/"
        assert made.send(group()) == expected


def test_wecom_with_an_http_error() -> None:
    with endpoint(502) as server:
        made = opened("wecombot://key-of-ours/")
        (service,) = made._apprise
        service.api_url = f"http://{server.address}/"
        assert made.send(group()) == Outcome(False, False, "HTTP 502")


@pytest.mark.parametrize("octets", [100, 400, 1000, 2048, 4096, 100_000])
def test_a_message_is_made_to_fit(octets: int) -> None:
    many = group(*[loss(number) for number in range(200)])
    title, body = fitted(many, "zh", 200, octets)

    assert len(title.encode()) + len(body.encode()) + 2 <= max(octets, 142)
    assert "丢包率" in title + body


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert opened(f"json://127.0.0.1:{port}/").send(group()) == Outcome(False, False, "Connection refused")


def test_secrets_are_in_no_log_at_any_level() -> None:
    """Even with everything logged: user, password, path and key of addresses that fail."""
    secrets = ["pa55word", "pathsecret", "querysecret", "wecomsecret", "tok3nsecret", "mailpass"]
    written = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    try:
        setup(LogSettings(level="debug"), written)
        answers = []
        with endpoint(500, 403) as server:
            for address in (server.address, server.address, f"127.0.0.1:{port}"):
                made = opened(f"json://me:pa55word@{address}/pathsecret?-key=querysecret")
                answers.append(made.send(group()))
            answers.append(opened(f"smseagle://tok3nsecret@{server.address}/15557654321").send(group()))
            made = opened("wecombot://wecomsecret/")
            (service,) = made._apprise
            service.api_url = f"http://127.0.0.1:{port}/?key=wecomsecret"
            answers.append(made.send(group()))
        url = f"mailto://me:mailpass@127.0.0.1:{port}/?from=a@example.net&to=b@example.net&mode=insecure"
        answers.append(opened(url).send(group()))
        logging.getLogger("vmflow.notify").debug("this is written")
    finally:
        root.handlers[:], root.level = before
        logging.captureWarnings(False)

    assert [answer.ok for answer in answers] == [False] * 6
    assert "this is written" in written.getvalue()
    shown = written.getvalue() + repr(answers)
    assert [secret for secret in secrets if secret in shown] == []


def test_receivers_need_no_threads_of_apprise() -> None:
    """Calls run on the thread that is given: apprise has pools of its own, which dead receivers would use up."""
    seen: list[str] = []
    with endpoint() as server:
        made = opened(f"json://{server.address}/")
        (service,) = made._apprise
        post = service.send

        def send(*args: Any, **kwargs: Any) -> Any:
            seen.append(threading.current_thread().name)
            return post(*args, **kwargs)

        service.send = send
        assert made.send(group()).ok

    assert seen == [threading.current_thread().name]
