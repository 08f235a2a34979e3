"""What people read: evidence, names, since when, and where to look; in English, Chinese and 140 characters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from collector.notify.message import SHORT_SIGNS, render, worst_first
from collector.notify.words import CHINESE, ENGLISH
from tests.notify.support import LOSS, NOON_US, SECOND_US, group, loss


def test_one_alert_in_english() -> None:
    message = render(group(), "en", 10)

    assert message.title == "[FIRING critical] web-1 → db-1 loss 6.1 % [4.8–7.5 %] (pair_loss)"
    assert message.text.splitlines() == [
        "FIRING: web-1 → db-1: loss 6.1 % [4.8–7.5 %], 21,040 samples",
        "",
        "Since: 2025-11-25 12:00:00 UTC (for 3 min 20 s)",
        "Threshold: 1 %",
        "Window: 10s from 2025-11-25 12:03:10 UTC",
        "Evidence: measured",
        "Source VM: web-1",
        "Destination VM: db-1",
        "Source host: hv1",
        "Destination host: hv2",
        "Network: blue",
        "Rule: pair_loss",
        "Severity: critical",
        "Runbook: https://runbooks.example.net/loss",
        "To look closer:",
        "SELECT time, loss_ratio",
        "FROM pair_metrics",
        "WHERE src_vm = 'web-1' AND dst_vm = 'db-1'",
        "Alert: 0123456789abcdef0123456789abcdef",
    ]
    assert message.short == "FIRING critical: web-1 -> db-1 loss 6.1 % (4.8-7.5 %) since 12:00 UTC"


def test_what_was_found_late_says_so() -> None:
    late = replace(LOSS, now_us=LOSS.window_end_us + 260 * SECOND_US)

    assert "Late: 4 min 20 s after the window, whose rows had waited" in render(group(late), "en", 10).text.splitlines()
    assert "迟报：窗口结束 4 分 20 秒 之后，其数据此前在等待写入" in render(group(late), "zh", 10).text.splitlines()
    assert "Late: " in render(group(late, loss(1)), "en", 10).text
    for other in (LOSS, replace(late, event="acknowledged"), replace(late, event="resolved", ended_by="mallory")):
        assert "Late: " not in render(group(other), "en", 10).text


def test_one_alert_in_chinese() -> None:
    message = render(group(), "zh", 10)

    assert message.title == "[告警 严重] web-1 → db-1 丢包率 6.1 % [4.8–7.5 %] (pair_loss)"
    lines = message.text.splitlines()
    assert lines[0] == "告警：web-1 → db-1：丢包率 6.1 % [4.8–7.5 %]，样本 21,040 个"
    assert lines[2:4] == ["开始时间：2025-11-25 12:00:00 UTC（持续 3 分 20 秒）", "阈值：1 %"]
    assert {"源虚拟机：web-1", "目的虚拟机：db-1", "源宿主机：hv1", "目的宿主机：hv2", "网络：blue"} <= set(lines)
    assert "处理手册：https://runbooks.example.net/loss" in lines
    assert message.short == "告警 严重：web-1 → db-1 丢包率 6.1 % [4.8–7.5 %] 始于 12:00 UTC"


def test_a_resolved_alert_tells_from_when_to_when() -> None:
    message = render(group(replace(LOSS, event="resolved", value=0.001, low=0.0, high=0.004)), "en", 10)

    assert message.title == "[RESOLVED critical] web-1 → db-1 loss 0.1 % [0–0.4 %] (pair_loss)"
    assert "from 2025-11-25 12:00:00 UTC to 2025-11-25 12:03:20 UTC (for 3 min 20 s)" in message.text.splitlines()


def test_silence_has_no_figure() -> None:
    silent = replace(
        LOSS, scope="exporter", labels={"exporter": "192.0.2.11"}, condition="absent", measure="datagrams",
        unit="datagrams", value=None, low=None, high=None, samples=None, evidence="", threshold=None,
    )  # fmt: skip
    message = render(group(silent), "en", 10)

    assert message.title == "[FIRING critical] 192.0.2.11 silent, nothing received (pair_loss)"
    assert "Exporter: 192.0.2.11" in message.text.splitlines()
    assert "Threshold" not in message.text
    assert "Window" not in message.text


def test_silence_tells_how_long() -> None:
    silent = replace(
        LOSS, scope="exporter", labels={"exporter": "192.0.2.11"}, condition="absent", measure="", unit="s",
        value=240.0, low=None, high=None, samples=None, evidence="", threshold=180.0,
    )  # fmt: skip
    english, chinese = render(group(silent), "en", 10), render(group(silent), "zh", 10)

    assert english.title == "[FIRING critical] 192.0.2.11 nothing received for 4 min (pair_loss)"
    assert chinese.title == "[告警 严重] 192.0.2.11 已有 4 分 未收到数据 (pair_loss)"
    assert "Threshold: 3 min" in english.text.splitlines()
    assert english.short == "FIRING critical: 192.0.2.11 nothing received for 4 min since 12:00 UTC"
    resolved = render(group(replace(silent, event="resolved")), "en", 10)
    assert resolved.title == "[RESOLVED critical] 192.0.2.11 (pair_loss)"


def test_what_is_no_number_is_left_out() -> None:
    nan = float("nan")
    odd = replace(LOSS, value=nan, low=nan, high=nan, samples=nan, threshold=nan)
    text = render(group(odd, loss(1)), "en", 10).text + render(group(odd), "en", 10).text

    assert "nan" not in text
    assert "web-1 → db-1: loss no figure" in text
    half = replace(LOSS, low=nan)
    assert render(group(half), "en", 10).title == "[FIRING critical] web-1 → db-1 loss 6.1 % (pair_loss)"


def test_many_alerts_are_one_message_worst_first() -> None:
    notifications = [loss(number, value=number / 100, low=None, high=None) for number in range(2, 42)]
    message = render(group(*notifications), "en", 9)
    lines = message.text.splitlines()

    assert message.title == "[FIRING critical] 40 alerts: web-41 → db-1 loss 41 % (pair_loss)"
    since = "since 2025-11-25 12:00:00 UTC (for 3 min 20 s)"
    for place, number in enumerate(range(41, 32, -1)):
        assert lines[place] == f"FIRING: web-{number} → db-1: loss {number} %, 21,040 samples, {since}"
    assert lines[9] == "... and 31 more"
    assert "Destination VM: db-1" in lines  # all have it in common
    assert not any(line.startswith("Source VM") for line in lines)
    assert message.short == "FIRING critical: web-41 -> db-1 loss 41 % since 12:00 UTC +39 more"
    assert "……另有 31 条" in render(group(*notifications), "zh", 9).text.splitlines()


def test_what_is_worse() -> None:
    firing = loss(1, value=0.02)
    far = loss(2, value=0.5)
    warning = loss(3, value=0.9, severity="warning")
    resolved = loss(4, event="resolved")
    silent = loss(5, value=None)
    below = loss(6, value=0.0001, threshold=0.01)  # a rule that looks downwards: a hundredth of what is expected
    assert worst_first([resolved, warning, firing, far, silent, below]) == [
        silent, below, far, firing, warning, resolved,
    ]  # fmt: skip


def test_a_title_counts_several_events() -> None:
    message = render(group(loss(1), loss(2), loss(3, event="resolved")), "en", 10)
    assert message.title.startswith("[FIRING 2, RESOLVED 1 critical] 3 alerts: web-1 → db-1 loss")


def test_names_from_outside_cannot_break_a_line_or_a_header() -> None:
    hostile = loss(
        1, labels={"src_vm": "web\r\nBcc: all@example.net\x00\u202e", "dst_vm": "x" * 500}, summary="a\x1b[2Jb"
    )
    message = render(group(hostile), "en", 10)

    for text in (message.title, message.short, *message.text.splitlines()):
        assert text.isprintable()
    assert not any(line.startswith("Bcc") for line in message.text.splitlines())
    assert len(message.title) <= 200


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("names", [("v", "w"), ("a" * 80, "b" * 80), ("虚" * 90, "拟" * 90)])
@pytest.mark.parametrize("count", [1, 3000])
def test_the_short_form_fits_and_keeps_figure_and_time(language: str, names: tuple[str, str], count: int) -> None:
    labels = {"src_vm": names[0], "dst_vm": names[1]}
    notifications = [replace(LOSS, labels=labels), *[loss(1, labels=labels, value=0.02)] * (count - 1)]
    short = render(group(*notifications), "zh" if language == "zh" else "en", 1).short

    assert len(short) <= SHORT_SIGNS
    assert "6.1 %" in short
    assert "12:00 UTC" in short
    assert count == 1 or str(count - 1) in short
    assert names[0][:10] in short
    assert names[1][:10] in short


def test_english_short_form_keeps_to_the_alphabet_of_sms() -> None:
    latency = replace(LOSS, measure="latency_us", unit="µs", value=850.0, low=800.0, high=900.0)
    assert render(group(latency), "en", 1).short.isascii()


def test_both_languages_know_the_same_words() -> None:
    for name in ("events", "severities", "labels", "conditions"):
        assert set(getattr(ENGLISH, name)) == set(getattr(CHINESE, name)), name
    assert set(ENGLISH.measures) <= set(CHINESE.measures)


def test_times_and_thresholds_of_other_conditions() -> None:
    trend = replace(LOSS, condition="trend", measure="utilisation", value=0.8, low=None, high=None, threshold=0.95)
    assert "Heads for the limit of 95 %" in render(group(trend), "en", 1).text.splitlines()
    day = replace(LOSS, now_us=NOON_US + 90_000 * SECOND_US)
    assert "Since: 2025-11-25 12:00:00 UTC (for 1 d 1 h)" in render(group(day), "en", 1).text.splitlines()


def test_streams_of_one_exporter_are_kept_apart() -> None:
    """Several lines of one message would else be the same."""
    streams = [
        {"exporter": "192.0.2.11", "agent": "::", "domain": "11", "protocol": "ipfix"},
        {"exporter": "192.0.2.11", "agent": "198.51.100.7", "domain": "0", "protocol": "sflow5"},
    ]
    silent: dict[str, Any] = {"scope": "exporter", "condition": "absent", "measure": "", "value": None}

    text = render(group(*(replace(LOSS, labels=labels, **silent) for labels in streams)), "en", 20).text

    assert "192.0.2.11 (ipfix, domain 11): silent" in text
    assert "192.0.2.11 (sflow5, domain 0, sFlow agent 198.51.100.7): silent" in text


@pytest.mark.parametrize(
    ("ended_by", "why", "expected"),
    [
        ("clear", "", "loss 6.1 %"),
        ("ann", "cable changed", "ended by ann: cable changed"),
        ("ann", "", "ended by ann"),
        ("forgotten", "db-1 has moved from h1 to h2", "cannot be measured any more: db-1 has moved from h1 to h2"),
    ],
)
def test_an_end_that_is_no_good_news_says_who_or_why(ended_by: str, why: str, expected: str) -> None:
    ended = replace(LOSS, event="resolved", ended_by=ended_by, why=why)

    message = render(group(ended), "en", 20)

    assert expected in message.title
    assert expected in message.text.splitlines()[0]
    assert ("6.1 %" in message.title) is (ended_by == "clear")
    assert "since 12:00 UTC" in message.short
    assert not why or why not in message.short


def test_the_sentence_of_an_anomaly_is_whole_and_in_the_reader_s_language() -> None:
    sentence = (
        "higher than usual at this hour over 8 min; usual 3.1 to 9.8 Mbit/s; "
        "about once in 40 days among 1,000 series; since 2026-11-30 14:22:00 UTC"
    )
    rare = replace(LOSS, condition="anomaly", evidence=sentence)

    assert f"Evidence: {sentence}\n" in render(group(rare), "en", 5).text
    assert (
        "依据：8 min 内均值高于该时段常值；常值范围 3.1 至 9.8 Mbit/s；每 1000 个序列约 40 天一次；"
        "始于 2026-11-30 14:22:00 UTC\n" in render(group(rare), "zh", 5).text
    )
    assert "measured; since x" in render(group(replace(LOSS, evidence="measured; since x")), "zh", 5).text
