"""What agents send, right and wrong: any of it may be made up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.session import wilson as one_wilson
from collector.probe.results import EXPECTED, FLOATS, INTEGERS, MOST_ROWS, ResultsError, parse
from schemas.column import Origin
from schemas.probes import MEASURED, PROBES
from tests.probe.support import NOW_US, ROW, batch, body

HOUR = 3_600_000_000
NONE = {
    **dict.fromkeys(("rtt_min_us", "rtt_median_us", "rtt_p99_us", "rtt_max_us", "jitter_us", "residence_us")),
    **{f"{way}_{what}": None for way in ("forward", "reverse") for what in ("us", "error_us", "variation_us")},
    **dict.fromkeys(("clock_offset_us", "clock_error_us", "skew_low_ppm", "skew_high_ppm", "hops")),
    "lost_forward": None, "lost_reverse": None, "round_trips": 0, "received": 0, "sent": 2,
}  # fmt: skip


def test_a_batch_becomes_rows_with_its_values() -> None:
    rows = parse(body({}, NONE), NOW_US).table("hv1")

    assert rows.schema == PROBES.arrow(Origin.DECODE)
    first, second = rows.to_pylist()
    assert int(first.pop("time").timestamp() * 1e6) == ROW["time_us"]
    assert first.pop("src_ip") == bytes(10) + b"\xff\xff\xc0\0\2\1"
    assert first.pop("dst_ip") == bytes.fromhex("20010db8") + bytes(11) + b"\2"
    low, high = one_wilson(2, 10)
    assert (first.pop("loss_low"), first.pop("loss_high")) == pytest.approx((low, high), abs=1e-12)
    assert (first.pop("agent"), first.pop("boot"), first.pop("batch")) == ("hv1", 99, 1)
    assert first == {name: ROW[name] for name in first}
    assert {name for name, value in second.items() if value is None} == {name for name in NONE if NONE[name] is None}
    assert second["loss_high"] == 1


def test_every_column_has_a_range() -> None:
    texts = {column.name for column in MEASURED if column.names} | {"time", "reflector", "src_ip", "dst_ip"}

    assert set(INTEGERS) | set(FLOATS) | texts == {column.name for column in MEASURED}
    assert set(ROW) == EXPECTED


def test_names_are_cleaned() -> None:
    rows = parse(body({"reflector": "a\x1b[2J\n"}, {"reflector": "b"}), NOW_US).table("hv1")

    assert rows.column("reflector").to_pylist() == ["a\\x1b[2J", "b"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"time_us": NOW_US - 25 * HOUR}, "time_us: "),
        ({"time_us": NOW_US + 61_000_000}, "the clock of the agent"),
        ({"time_us": NOW_US + 55_000_000}, "the window ends in the future"),
        ({"time_us": float(NOW_US)}, "a number is expected, not float"),
        ({"interval_us": 0}, "interval_us"),
        ({"interval_us": None}, "not NoneType"),
        ({"session": -1}, "session"),
        ({"session": 2**32}, "session"),
        ({"session": 10**400}, "beyond all bounds"),
        ({"session": True}, "not bool"),
        ({"session": "7"}, "not str"),
        ({"session": [7]}, "not list"),
        ({"dscp": 64}, "dscp"),
        ({"dst_port": 0}, "dst_port"),
        ({"sent": 11}, "row 0: sent is not received + lost"),
        ({"sent": 0, "received": 0, "lost": 0, "late": 0, **{k: NONE[k] for k in NONE if k != "sent"}}, "nothing"),
        ({"late": 3}, "more late than lost"),
        ({"lost_forward": 2, "lost_reverse": 1}, "more lost by direction"),
        ({"lost_forward": None}, "one direction"),
        ({"round_trips": 9}, "more round trips"),
        ({"round_trips": 0}, "without round trips"),
        ({"rtt_p99_us": None}, "rtt_p99_us"),
        ({"rtt_median_us": 131.0}, "ascend"),
        ({"rtt_max_us": 1e300}, "rtt_max_us"),
        ({"rtt_min_us": -0.1}, "rtt_min_us"),
        ({"jitter_us": {}}, "not dict"),
        ({"forward_error_us": None}, "forward_error_us without"),
        ({"skew_low_ppm": 3.0}, "skew"),
        ({"hops": 256}, "hops"),
        ({"clocks": "wrong"}, "clocks"),
        ({"clocks": ["free"]}, "clocks"),
        ({"reflector": ""}, "reflector"),
        ({"reflector": "x" * 101}, "reflector"),
        ({"src_ip": "224.0.0.1"}, "src_ip"),
        ({"src_ip": "::"}, "src_ip"),
        ({"dst_ip": "fe80::1%eth0"}, "dst_ip"),
        ({"dst_ip": "1" * 1000}, "dst_ip"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ResultsError, match=words.replace("+", r"\+")):
        parse(body(change), NOW_US)
    with pytest.raises(ResultsError):
        parse(body({}, {}, change), NOW_US)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"[" * 100_000, b"\xff\xfe", b'{"boot":1}',
        json.dumps(batch() | {"boot": 0}).encode(), json.dumps(batch() | {"boot": 2**63}).encode(),
        json.dumps(batch() | {"boot": True}).encode(), json.dumps(batch() | {"batch": 2**32}).encode(),
        json.dumps(batch() | {"batch": 1.0}).encode(), json.dumps(batch() | {"columns": []}).encode(),
        json.dumps(batch() | {"columns": {}}).encode(), json.dumps(batch() | {"more": 1}).encode(),
        json.dumps(batch() | {"columns": {name: [] for name in ROW}}).encode(),
        json.dumps(batch() | {"columns": dict.fromkeys(ROW, "x")}).encode(),
        json.dumps(batch() | {"columns": batch()["columns"] | {"sent": [10, 10]}}).encode(),
        json.dumps(batch() | {"columns": batch()["columns"] | {"x" * 1000: [1]}}).encode(),
        body().replace(b"130.0", b"NaN"), body().replace(b"130.0", b"Infinity"), body().replace(b"130.0", b"1e999"),
        body(*[{}] * (MOST_ROWS + 1)),
    ],
)  # fmt: skip
def test_what_is_no_batch_is_refused_in_few_words(text: bytes) -> None:
    with pytest.raises(ResultsError) as error:
        parse(text, NOW_US)

    assert len(str(error.value)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), st.lists, max_leaves=4
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ROW)), JSON)
def test_whatever_a_value_is_there_are_rows_or_a_reason(name: str, value: object) -> None:
    try:
        text = body({name: value})
        text.decode()
        found = parse(text, NOW_US)
    except ResultsError:
        return
    found.table("hv1").validate(full=True)
