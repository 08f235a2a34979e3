"""Views over rows made up with known truth: what counts, what is stated, and where nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver import Client

from collector.store.client import open_in_database
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from schemas.views.all import VIEWS
from tests.flow_rows import BEGIN_US, add, ask, emptied, flow, store, vm

A, B = vm("a", "host-1"), vm("b", "host-2")
NOBODY = {"vm": "", "uuid": "00000000-0000-0000-0000-000000000000", "host": "", "tag": 1}


@pytest.fixture(scope="module")
def made(store_directory: Path) -> Iterator[Client]:
    with store(StoreSettings(url=f"chdb://{store_directory}", database="views")) as client:
        yield client


@pytest.fixture
def client(made: Client) -> Client:
    return emptied(made)


def only(client: Client, sql: str) -> dict[str, Any]:
    """The only row of a query."""
    rows = ask(client, sql)
    assert len(rows) == 1, rows
    return rows[0]


def test_a_packet_seen_at_both_ends_counts_once(client: Client) -> None:
    add(client, [flow(A, B, seen, received=5) for seen in ("source", "destination", "transit")] * 8)

    row = only(client, "SELECT * FROM pair_metrics")
    assert row["packets"] == 8
    assert row["bits_per_second"] == 8 * 100 * 8 / 10
    assert (row["sent_packets"], row["received_packets"], row["elsewhere_packets"]) == (8, 8, 8)
    assert (row["loss_evidence"], row["loss_ratio"], row["loss_low"], row["loss_high"]) == ("exact", 0, 0, 0)
    vms = ask(client, "SELECT vm, sent_packets, received_packets FROM vm_metrics ORDER BY vm")
    assert vms == [
        {"vm": "a", "sent_packets": 8, "received_packets": 0},
        {"vm": "b", "sent_packets": 0, "received_packets": 8},
    ]
    hosts = ask(client, "SELECT host, sent_packets, received_packets FROM host_metrics ORDER BY host")
    assert hosts == [
        {"host": "host-1", "sent_packets": 8, "received_packets": 0},
        {"host": "host-2", "sent_packets": 0, "received_packets": 8},
    ]


def test_exact_loss_in_the_middle_of_a_window_is_exact(client: Client) -> None:
    add(client, [flow(A, B, "source", received=5)] * 100 + [flow(A, B, "destination", received=5.1)] * 93)

    row = only(client, "SELECT * FROM pair_metrics")
    assert row["loss_evidence"] == "exact"
    assert row["loss_ratio"] == pytest.approx(0.07)
    assert row["loss_low"] == row["loss_high"] == pytest.approx(0.07)


def test_what_crosses_the_end_of_a_window_is_no_sure_loss(client: Client) -> None:
    """Ten packets are reported at the source before the window ends, at the destination after."""
    rows = [flow(A, B, seen, received=5) for seen in ("source", "destination")] * 90
    rows += [flow(A, B, "source", received=9.9)] * 10 + [flow(A, B, "destination", received=10.4)] * 10
    add(client, rows)

    first = only(client, f"SELECT * FROM pair_metrics WHERE time = toDateTime({BEGIN_US // 1_000_000}, 'UTC')")
    assert first["loss_evidence"] == "exact"
    assert first["loss_ratio"] == pytest.approx(0.1)  # what this window shows
    assert first["loss_low"] == 0  # and what it does not prove
    minute = only(client, "SELECT * FROM pair_metrics_1m")
    assert (minute["loss_ratio"], minute["loss_low"], minute["loss_high"]) == (0, 0, 0)


def test_steady_traffic_keeps_its_interval_narrow(client: Client) -> None:
    """A thousand packets a second through window after window, 5 % lost, reports 0.7 s later at the destination."""
    rows = []
    for tick in range(-20, 400):
        rows.append(flow(A, B, "source", received=tick / 10, packets=100, samples=100))
        rows.append(flow(A, B, "destination", received=tick / 10 + 0.7, packets=95, samples=95))
    add(client, rows)

    row = only(client, f"SELECT * FROM pair_metrics WHERE time = toDateTime({BEGIN_US // 1_000_000 + 20}, 'UTC')")
    assert row["loss_evidence"] == "exact"
    assert 0.02 < row["loss_low"] <= 0.05 <= row["loss_high"] < 0.08


@pytest.mark.parametrize(("begins", "delay", "fell_out"), [(9, 0.7, 0.07), (5, 0.09, 0.01)])
def test_a_delay_that_grows_within_the_window_is_no_loss(
    client: Client, begins: float, delay: float, fell_out: float
) -> None:
    """A thousand packets a second, none lost: from second `begins` on, all arrive later."""
    rows = []
    for tick in range(-20, 120):
        sent = tick / 10 + 0.05
        rows.append(flow(A, B, "source", received=sent, packets=100, samples=100))
        arrived = sent + (delay if sent >= begins else 0)
        rows.append(flow(A, B, "destination", received=arrived, packets=100, samples=100))
    add(client, rows)

    row = only(client, f"SELECT * FROM pair_metrics WHERE time = toDateTime({BEGIN_US // 1_000_000}, 'UTC')")
    assert (row["loss_evidence"], row["loss_ratio"]) == ("exact", pytest.approx(fell_out))
    assert row["loss_low"] == 0


def test_packets_per_record_tells_what_is_shared_out(client: Client) -> None:
    add(client, [flow(A, B, "source", received=5)] * 6 + [flow(A, B, "destination", received=5, packets=5, samples=5)])

    assert only(client, "SELECT packets_per_record FROM pair_metrics")["packets_per_record"] == pytest.approx(11 / 7)


def test_one_switch_that_sees_both_ends_hides_no_loss(client: Client) -> None:
    """900 packets within one hypervisor before the VM moved, then 100 of which 10 are lost on the way."""
    rows = [flow(A, B, "both", received=3, packets=900, samples=900)]
    rows += [flow(A, B, "source", received=6, packets=100, samples=100)]
    rows += [flow(A, B, "destination", received=6, packets=90, samples=90)]
    add(client, rows)

    row = only(client, "SELECT * FROM pair_metrics")
    assert row["packets"] == 1000
    assert row["within_packets"] == 900
    assert row["loss_ratio"] == pytest.approx(0.1)


@pytest.mark.parametrize("seen", ["source", "destination", "both"])
def test_one_vantage_point_is_blind_for_loss(client: Client, seen: str) -> None:
    add(client, [flow(A, B, seen, received=5)] * 50)

    row = only(client, "SELECT * FROM pair_metrics")
    assert (row["loss_evidence"], row["loss_ratio"], row["loss_low"], row["loss_high"]) == ("blind", None, None, None)
    assert row["packets"] == 50
    assert row["counted_at"] == ("destination" if seen == "destination" else "source")


MANY = {"packets": 10_000, "samples": 10_000}


def deliveries(client: Client) -> None:
    """In the window before, the exporter of host-2 saw packets go out to `b`."""
    add(client, [flow(vm("c", "host-3"), B, "destination", received=-5, **MANY)])


ALIVE = {"received": 4, "packets": 2, "samples": 2}


def test_nothing_received_is_total_loss_where_somebody_watched(client: Client) -> None:
    deliveries(client)
    add(client, [flow(A, B, "source", received=5)] * 50 + [flow(B, A, "source", **ALIVE)])

    row = only(client, "SELECT * FROM pair_metrics WHERE src_vm = 'a'")
    assert (row["loss_evidence"], row["loss_ratio"], row["loss_low"], row["loss_high"]) == ("exact", 1, 1, 1)
    # What `a` hears nothing of in turn is not known: host-1 was never seen delivering.
    assert only(client, "SELECT * FROM pair_metrics WHERE src_vm = 'b'")["loss_evidence"] == "blind"


def test_nothing_of_few_samples_is_total_loss_within_its_interval(client: Client) -> None:
    sampled = {"sampling_rate": 16, "rate_source": "record"}
    deliveries(client)
    add(client, [flow(A, B, "source", received=5, **sampled)] * 100 + [flow(B, A, "source", received=4, **sampled)])

    row = only(client, "SELECT * FROM pair_metrics WHERE src_vm = 'a'")
    assert (row["loss_evidence"], row["loss_ratio"], row["loss_high"]) == ("measured", 1, 1)
    # Of which nothing was seen, up to 3.69 samples could have been expected: 59 packets of about 1600, at least 1300.
    assert 1 - 59.04 / 1300 < row["loss_low"] < 1 - 59.04 / 1600


def test_nothing_of_too_few_samples_is_insufficient(client: Client) -> None:
    deliveries(client)
    sampled = {"sampling_rate": 16, "rate_source": "record", "received": 5}
    add(client, [flow(A, B, "source", **sampled)] * 40 + [flow(B, A, "source", **ALIVE)])
    # Many packets, but at the port of the receiving VM one in 10,000 is looked at.
    other = vm("d", "host-2")
    add(client, [flow(A, other, "source", received=5, packets=50_000, samples=50_000)])
    add(client, [flow(other, A, "source", received=5, sampling_rate=10_000, rate_source="record")])

    rows = ask(client, "SELECT dst_vm, loss_evidence, loss_ratio FROM pair_metrics WHERE src_vm = 'a' ORDER BY dst_vm")
    assert [tuple(row.values()) for row in rows] == [("b", "insufficient", None), ("d", "insufficient", None)]


@pytest.mark.parametrize(
    "why",
    [
        "the receiver was not seen",
        "its exporter sees no deliveries",
        "of another tenant",
        "on one host",
        "nameless",
    ],
)
def test_nothing_received_is_blindness_where_nobody_watched(client: Client, why: str) -> None:
    if why != "its exporter sees no deliveries":
        deliveries(client)
    namesake = B | {"uuid": "00000000-0000-0000-0000-00000000beef"}
    sender = A | {"host": "host-2"} if why == "on one host" else A
    receiver = NOBODY if why == "nameless" else B
    watched = {"the receiver was not seen": [], "of another tenant": [flow(namesake, A, "source", **ALIVE)]}
    add(client, watched.get(why, [flow(B, sender, "source", **ALIVE)]))
    # Somebody without a name sends from host-2, too: it stands in no relation to the receiver without a name.
    add(client, [flow(NOBODY | {"host": "host-2"}, sender, "source", **ALIVE)])
    add(client, [flow(sender, receiver, "source", received=5)] * 50)

    row = only(client, f"SELECT * FROM pair_metrics WHERE src_vm = 'a' AND time >= toDateTime({BEGIN_US // 1_000_000})")
    assert (row["loss_evidence"], row["loss_ratio"]) == ("blind", None)


def total_loss(client: Client, **shown: Any) -> str:
    """The verdict of a window in which `a` sends, and `b` sends and receives nothing."""
    add(client, [flow(A, B, "source", received=5, **shown)] * 50 + [flow(B, A, "source", **ALIVE, **shown)])
    begin = BEGIN_US // 1_000_000
    sql = f"SELECT loss_evidence FROM pair_metrics WHERE src_vm = 'a' AND time = toDateTime({begin}, 'UTC')"
    return str(only(client, sql)["loss_evidence"])


OTHER_SENDER = {"exporter": IPv6Address("::ffff:192.0.2.9").packed}


@pytest.mark.parametrize(
    "other",
    [{"protocol": "ipfix"}, {"domain": 9}, OTHER_SENDER, {"network": "tenant-2"}],
    ids=lambda how: next(iter(how)),
)
def test_what_another_stream_or_network_delivers_proves_nothing(client: Client, other: dict[str, Any]) -> None:
    """A host changes its protocol; sFlow of br-int sees tunnels, but nothing that comes by a patch port."""
    add(client, [flow(vm("c", "host-3"), B, "destination", received=-5, **MANY, **other)])

    assert total_loss(client) == "blind"


def test_a_stray_delivery_proves_nothing(client: Client) -> None:
    """An export that Open vSwitch sets up again samples the output, too, until it is set not to."""
    add(client, [flow(vm("c", "host-3"), B, "destination", received=15)])

    assert total_loss(client) == "blind"


@pytest.mark.parametrize(("proof", "verdict"), [([], "blind"), ([-5], "exact")])
def test_of_few_deliveries_in_a_window_the_same_proof_is_asked(
    client: Client, proof: list[float], verdict: str
) -> None:
    """One second in which the output was sampled is no loss of 98 %."""
    add(client, [flow(vm("c", "host-3"), B, "destination", received=at, **MANY) for at in proof])
    add(client, [flow(A, B, "destination", received=5)])

    assert total_loss(client) == verdict


@pytest.mark.parametrize(
    ("renewed", "reason", "verdict"),
    [
        (-600, "reopened", "exact"),
        (-120, "reopened", "blind"),
        (-120, "restarted", "blind"),
        (-120, "started", "blind"),
        (-120, "lost", "exact"),
    ],
)
def test_what_a_stream_showed_before_it_was_set_up_anew_proves_nothing(
    client: Client, renewed: float, reason: str, verdict: str
) -> None:
    """Its output may be sampled no more."""
    add(client, [flow(vm("c", "host-3"), B, "destination", received=-300, **MANY)])
    add(client, [gap(renewed - 1, renewed, reporter="::ffff:192.0.2.1", protocol="sflow5", reason=reason)], "gaps")

    assert total_loss(client) == verdict


def test_the_stream_that_sees_deliveries_must_be_alive_in_the_window(client: Client) -> None:
    """The uplink bridge reports in a domain of its own what comes by the patch port."""
    add(client, [flow(vm("c", "host-3"), B, "destination", received=-5, domain=9, **MANY)])
    add(client, [flow(vm("c", "host-3"), vm("e", "host-4"), "transit", received=5, domain=9)])

    assert total_loss(client) == "exact"


def test_a_protocol_that_is_not_believed_in_a_window_proves_nothing(client: Client) -> None:
    """Unsampled IPFIX of the input alone is believed at host-2; sFlow, which sees what arrives, is not."""
    seen = {"received": -5, "sampling_rate": 8, **MANY}
    add(client, [flow(vm("c", "host-3"), B, "destination", **seen)])
    add(client, [flow(vm("c", "host-3"), vm("e", "host-4"), "transit", received=5, sampling_rate=8)])
    add(client, [flow(A, B, "destination", received=5, sampling_rate=8)] * 6)
    add(client, [flow(B, A, "source", received=5, sampling_rate=8)] * 6)
    add(client, [flow(B, A, "source", received=5, protocol="ipfix")] * 50)

    assert total_loss(client) == "blind"


def test_packets_within_one_switch_prove_nothing(client: Client) -> None:
    add(client, [flow(vm("c", "host-2"), B, "both", received=-5)])

    assert total_loss(client) == "blind"


@pytest.mark.parametrize(("sender", "verdict"), [("c", "blind"), ("a", "exact")])
def test_in_networks_without_a_name_only_the_pair_itself_is_proof(client: Client, sender: str, verdict: str) -> None:
    """VLAN and VXLAN end at one bridge, and nothing says which packet was of which."""
    add(client, [flow(vm(sender, "host-1"), B, "destination", received=-5, network="", **MANY)])

    assert total_loss(client, network="") == verdict


def gap(begins: float, ends: float, reporter: str = "::", **values: Any) -> dict[str, Any]:
    """A time that was not watched, in seconds after BEGIN_US; of the service unless stated otherwise."""
    moments = {"begins": BEGIN_US + round(begins * 1e6), "ends": BEGIN_US + round(ends * 1e6)}
    return moments | {"reporter": IPv6Address(reporter).packed, "reason": "away"} | values


SENDING, RECEIVING = "::ffff:192.0.2.11", "::ffff:192.0.2.12"


def lossy(client: Client) -> None:
    """100 packets a window leave host-1, 93 of them reach host-2, for a minute."""
    forth = {"exporter": IPv6Address(SENDING).packed}
    back = {"exporter": IPv6Address(RECEIVING).packed}
    rows = []
    for begin in range(0, 60, 10):
        rows += [flow(A, B, "source", received=begin + 5, **forth)] * 100
        rows += [flow(A, B, "destination", received=begin + 5.1, **back)] * 93
    add(client, rows)


FIRST = f"SELECT * FROM {{}} WHERE time = toDateTime({BEGIN_US // 1_000_000}, 'UTC')"


@pytest.mark.parametrize(
    ("missed", "watched", "bandwidth"),
    [
        (gap(2, 4), 8, False),
        (gap(-60, 2), 8, False),
        (gap(2, 4, SENDING, protocol="sflow5"), 8, False),
        (gap(2, 4, RECEIVING, protocol="sflow5"), 8, True),
        (gap(2, 4, RECEIVING, protocol="ipfix"), 10, True),
        (gap(2, 4, RECEIVING, protocol="sflow5", domain=3), 10, True),
        (gap(10, 20), 10, True),
    ],
)
def test_a_window_that_was_not_watched_says_so(
    client: Client, missed: dict[str, Any], watched: float, bandwidth: bool
) -> None:
    lossy(client)
    add(client, [missed], "gaps")

    row = only(client, FIRST.format("pair_metrics"))
    assert row["watched_seconds"] == watched
    assert (row["loss_evidence"], row["loss_ratio"] is None) == (
        ("exact", False) if watched == 10 else ("insufficient", True)
    )
    assert (row["bits_per_second"], row["bits_per_second_high"]) == ((8000, 8000) if bandwidth else (None, None))
    sender = only(client, FIRST.format("vm_metrics") + " AND vm = 'a'")
    assert (sender["sent_bits_per_second"] is None, sender["sent_bytes"]) == (not bandwidth, 10_000)
    host = only(client, FIRST.format("host_metrics") + " AND host = 'host-1'")
    assert host["watched_seconds"] == sender["watched_seconds"] == (10 if bandwidth else 8)


def test_what_little_was_missed_is_in_the_interval(client: Client) -> None:
    """Of a minute, three seconds: 600 packets in 57 s, and in the others none, or twice as many."""
    lossy(client)
    add(client, [gap(2, 5)], "gaps")

    row = only(client, FIRST.format("pair_metrics_1m"))
    assert (row["watched_seconds"], row["loss_evidence"]) == (57, "exact")
    assert row["packets_per_second"] == pytest.approx(600 / 57)
    assert row["packets_per_second_low"] == pytest.approx(600 / 60)
    assert row["packets_per_second_high"] == pytest.approx(600 / 60 * 63 / 57)
    assert row["loss_ratio"] == pytest.approx(0.07)
    assert row["loss_low"] == 0
    assert row["loss_high"] == pytest.approx(0.07 + 2 * 3 / 57)


@pytest.mark.parametrize("reason", ["started", "reopened", "restarted"])
def test_a_window_in_which_a_stream_was_set_up_anew_tells_no_loss(client: Client, reason: str) -> None:
    lossy(client)
    add(client, [gap(2, 5, RECEIVING, protocol="sflow5", reason=reason)], "gaps")

    row = only(client, FIRST.format("pair_metrics_1m"))
    assert (row["loss_evidence"], row["loss_ratio"]) == ("insufficient", None)
    assert row["packets_per_second"] == 10
    # Of the receiver: nothing that counts the sender began again.
    assert row["restarted"] == 1
    vms = {one["vm"]: one["restarted"] for one in ask(client, "SELECT vm, restarted FROM vm_metrics_1m")}
    assert vms == {"a": 0, "b": 1}


def test_records_that_reach_over_the_ends_of_a_window_smear(client: Client) -> None:
    """Ten seconds in one record, half of them in this window: it may hold nothing of it, or all."""
    record = {"protocol": "netflow5", "rate_source": "unstated", "started": 5, "ended": 15, "received": 15.5}
    add(client, [flow(A, B, "source", packets=1000, samples=1000, bytes=100_000, **record)])
    add(client, [flow(A, B, "destination", packets=900, samples=900, bytes=90_000, **record)])

    row = only(client, FIRST.format("pair_metrics"))
    assert (row["packets_per_second_low"], row["packets_per_second"], row["packets_per_second_high"]) == (0, 50, 100)
    assert (row["bits_per_second_low"], row["bits_per_second"], row["bits_per_second_high"]) == (0, 40_000, 80_000)
    assert (row["loss_evidence"], row["loss_ratio"]) == ("spread", pytest.approx(0.1))
    assert (row["loss_low"], row["loss_high"]) == (0, 1)
    minute = only(client, FIRST.format("pair_metrics_1m"))
    assert minute["loss_evidence"] == "exact"
    assert minute["loss_low"] == minute["loss_high"] == pytest.approx(0.1)


def test_short_records_may_stray_over_the_ends_of_a_window(client: Client) -> None:
    """100 packets a second in records of a second: half of what the first and the last hold may be beyond the ends."""
    short = {"protocol": "ipfix", "rate_source": "override", "packets": 100, "samples": 100, "bytes": 10_000}
    steady = [{"started": at, "ended": at + 1, "received": at + 1.5} for at in range(10)]
    add(client, [flow(A, B, "source", **short, **one) for one in steady])

    row = only(client, FIRST.format("pair_metrics"))
    off = 0.5 * (2 * 100**2) ** 0.5 / 10
    assert row["packets_per_second"] == 100
    assert row["packets_per_second_low"] == pytest.approx(100 - off)
    assert row["packets_per_second_high"] == pytest.approx(100 + off)
    (sender,) = (one for one in ask(client, FIRST.format("vm_metrics")) if one["vm"] == A["vm"])
    assert sender["sent_packets_per_second_low"] == pytest.approx(100 - off)
    assert sender["sent_packets_per_second_high"] == pytest.approx(100 + off)


def test_many_records_smear_less_than_one(client: Client) -> None:
    """A hundred connections, each in a record of its own: they do not all stray to the same side."""
    record = {"protocol": "netflow5", "rate_source": "unstated", "started": 5, "ended": 15, "received": 15.5}
    add(client, [flow(A, B, "source", packets=10, samples=10, src_port=port, **record) for port in range(100)])

    row = only(client, FIRST.format("pair_metrics"))
    off = 1.96 * (100 * 5**2) ** 0.5 / 10
    assert row["packets_per_second_low"] == pytest.approx(50 - off)
    assert row["packets_per_second_high"] == pytest.approx(50 + off)


def test_windows_shorter_than_the_records_tell_no_loss(client: Client) -> None:
    record = {"protocol": "netflow5", "rate_source": "unstated", "started": 5, "ended": 55, "received": 55.5}
    add(client, [flow(A, B, "source", packets=1000, samples=1000, **record)])
    add(client, [flow(A, B, "destination", packets=500, samples=500, **record)])

    begin = BEGIN_US // 1_000_000 + 20
    row = only(client, f"SELECT * FROM pair_metrics WHERE time = toDateTime({begin}, 'UTC')")
    assert (row["loss_evidence"], row["loss_ratio"]) == ("insufficient", None)
    minute = only(client, "SELECT * FROM pair_metrics_1m")
    assert (minute["loss_evidence"], minute["loss_low"]) == ("exact", pytest.approx(0.5))


def test_what_is_seen_at_no_end_has_no_volume(client: Client) -> None:
    add(client, [flow(A, B, "transit", received=5)] * 50)

    row = only(client, "SELECT * FROM pair_metrics")
    assert (row["counted_at"], row["packets"], row["bits_per_second"]) == ("nowhere", None, None)
    assert row["elsewhere_packets"] == 50


def test_a_rate_that_nobody_states_is_not_exact(client: Client) -> None:
    """IPFIX records may hold counts that the switch has multiplied: each counts as one sample."""
    unstated = {"protocol": "ipfix", "rate_source": "unstated", "packets": 16, "samples": 1, "received": 5}
    add(client, [flow(A, B, seen, **unstated) for seen in ("source", "destination")] * 100)

    row = only(client, "SELECT * FROM pair_metrics")
    assert row["loss_evidence"] == "measured"
    assert row["loss_high"] == pytest.approx(1 - 1 / 2.718281828 ** (1.96 * (2 / 100) ** 0.5))
    assert row["packets"] == 1600
    assert row["packets_per_second_low"] < 160 < row["packets_per_second_high"]
    assert row["rate_unstated"] == 100
    assert row["connections_evidence"] == "at least"


def test_netflow_5_that_states_no_sampling_is_exact(client: Client) -> None:
    record = {"protocol": "netflow5", "rate_source": "unstated", "received": 9, "started": 2, "ended": 8}
    add(client, [flow(A, B, "source", packets=1000, samples=1000, **record)])
    add(client, [flow(A, B, "destination", packets=990, samples=990, **record)])

    row = only(client, "SELECT * FROM pair_metrics")
    assert row["loss_evidence"] == "exact"
    assert row["loss_low"] == row["loss_ratio"] == row["loss_high"] == pytest.approx(0.01)


def test_a_long_flow_makes_no_spike(client: Client) -> None:
    """Ten minutes at 100 packets a second, reported once at the end."""
    long = {"protocol": "netflow5", "started": 0, "ended": 600, "received": 601, "packets": 60_000, "samples": 60_000}
    add(client, [flow(A, B, "source", **long)])

    rows = ask(client, "SELECT * FROM pair_metrics ORDER BY time")
    assert len(rows) == 60
    assert {round(row["packets_per_second"], 6) for row in rows} == {100.0}


def tcp(source: Any, destination: Any, seen: str, port: int, flags: int, **values: Any) -> dict[str, Any]:
    forth = source is A
    ends = {"src_port": port, "dst_port": 80} if forth else {"src_port": 80, "dst_port": port}
    if not forth:
        first = flow(A, B, "source")
        ends |= {"src_ip": first["dst_ip"], "dst_ip": first["src_ip"]}
    return flow(source, destination, seen, ip_protocol=6, tcp_flags=flags, received=5, **(ends | values))


SYN, ACK, RST = 2, 16, 4


def test_failed_connections_are_those_nobody_accepts(client: Client) -> None:
    """Eight connections: five accepted, two refused with a reset, one without an answer.  Seen at both ends."""
    rows = []
    for seen, answered in (("source", "destination"), ("destination", "source")):
        rows += [tcp(A, B, seen, 1000 + number, SYN) for number in range(8)]
        rows += [tcp(B, A, answered, 1000 + number, SYN | ACK) for number in range(5)]
        rows += [tcp(B, A, answered, 1005 + number, RST | ACK) for number in range(2)]
        rows += [tcp(A, B, seen, 1000 + number, ACK) for number in range(5)]
    add(client, rows)

    row = only(client, "SELECT * FROM pair_metrics WHERE src_vm = 'a'")
    assert row["new_connections_per_second"] == 0.8
    assert row["failed_connections"] == 3
    assert row["error_ratio"] == pytest.approx(3 / 8)
    assert row["error_low"] < 3 / 8 < row["error_high"]
    assert (row["connections"], row["connections_evidence"]) == (8, "exact")
    back = only(client, "SELECT * FROM pair_metrics WHERE src_vm = 'b'")
    assert back["resets"] == 2
    assert back["new_connections_per_second"] == 0
    assert back["error_ratio"] is None


@pytest.mark.parametrize(("network", "failed"), [("net", 40), ("other", None), ("", None)])
def test_connections_into_nothing_fail_where_answers_would_be_seen(
    client: Client, network: str, failed: int | None
) -> None:
    """40 SYN to where nobody is; the switch tells of deliveries in `net` meanwhile."""
    asks = [flow(A, NOBODY, "source", ip_protocol=6, tcp_flags=SYN, src_port=1000 + n, received=5) for n in range(40)]
    add(client, [row | {"network": network} for row in asks])
    add(client, [flow(B, A, "destination", received=5, network="net")])

    row = only(client, "SELECT * FROM pair_metrics WHERE src_vm = 'a'")
    assert row["failed_connections"] == failed
    assert row["error_ratio"] == (None if failed is None else 1)


def test_records_of_whole_connections_show_who_opened_them(client: Client) -> None:
    """NetFlow joins the flags of a record: SYN with ACK stands in both directions.  The lower port is the server's."""
    record = {"protocol": "netflow5", "packets": 10, "samples": 10}
    add(client, [tcp(A, B, "both", 40_000 + number, SYN | ACK, **record) for number in range(4)])
    add(client, [tcp(B, A, "both", 40_000 + number, SYN | ACK, **record) for number in range(3)])

    row = only(client, "SELECT * FROM pair_metrics WHERE src_vm = 'a'")
    assert row["new_connections_per_second"] == 0.4
    assert row["failed_connections"] == 1
    assert only(client, "SELECT * FROM pair_metrics WHERE src_vm = 'b'")["new_connections_per_second"] == 0


def test_records_without_flags_say_nothing_about_new_connections(client: Client) -> None:
    add(client, [tcp(A, B, "source", 1000, 0, protocol="ipfix", rate_source="unstated")])

    row = only(client, "SELECT * FROM pair_metrics")
    assert row["new_connections_per_second"] is None
    assert row["error_ratio"] is None
    assert row["connections"] == 1


def test_drop_hints_are_kept_apart(client: Client) -> None:
    add(client, [flow(A, B, seen, received=5, drop_hint_packets=1) for seen in ("source", "destination")] * 5)

    row = only(client, "SELECT * FROM pair_metrics")
    assert (row["loss_ratio"], row["drops"], row["drop_hint_packets"]) == (0, 0, 10)


def test_traffic_from_outside_counts_for_the_vm(client: Client) -> None:
    add(client, [flow(NOBODY, B, "destination", received=5)] * 3 + [flow(B, NOBODY, "source", received=5)] * 4)

    assert ask(client, "SELECT vm, sent_packets, received_packets FROM vm_metrics") == [
        {"vm": "b", "sent_packets": 4, "received_packets": 3}
    ]


def poll(at: float, **values: Any) -> dict[str, Any]:
    """One poll of vnet1 on host-1, 20 s after the one before."""
    row = {
        "time_received": BEGIN_US + round(at * 1e6),
        "agent": IPv6Address("::ffff:192.0.2.11").packed,
        "source": "sflow",
        "if_index": 7,
        "if_name": "vnet1",
        "delta_state": "ok",
        "interval_us": 20_000_000,
        "host": "host-1",
        "vm": "a",
        "network": "tenant-1",
    }
    deltas = {f"{name}_delta": value for name, value in values.items() if name[:3] in ("in_", "out")}
    return row | {name: value for name, value in values.items() if name[:3] not in ("in_", "out")} | deltas


def test_polls_are_shared_out_over_the_time_between(client: Client) -> None:
    """A poll at second 25 is about seconds 5 to 25."""
    add(client, [poll(25, in_bytes=20_000, in_unicast_packets=200, if_speed=10_000)], "interface_counters")

    rows = ask(client, "SELECT * FROM interface_metrics ORDER BY time")
    assert [round(row["in_bytes"]) for row in rows] == [5_000, 10_000, 5_000]
    assert [row["coverage"] for row in rows] == [0.5, 1, 0.5]
    # 20,000 octets in 20 s are 8,000 bit/s, in windows that are covered by half, too.
    assert [row["in_bits_per_second"] for row in rows] == pytest.approx([8_000] * 3)
    assert [row["utilisation"] for row in rows] == pytest.approx([0.8] * 3)
    minute = only(client, "SELECT * FROM interface_metrics_1m")
    assert minute["in_bytes"] == pytest.approx(20_000)
    assert minute["in_bits_per_second"] == pytest.approx(8_000)


def test_loss_and_errors_of_an_interface(client: Client) -> None:
    counted = {
        "in_unicast_packets": 900,
        "out_unicast_packets": 50,
        "in_discards": 30,
        "out_discards": 20,
        "out_errors": 50,
    }
    add(client, [poll(20, **counted)], "interface_counters")

    row = only(client, "SELECT * FROM interface_metrics_1m")
    assert row["loss_ratio"] == pytest.approx(50 / 1000)
    assert row["error_ratio"] == pytest.approx(50 / 1000)


def test_multicast_is_not_counted_twice_where_the_unicast_counter_holds_all(client: Client) -> None:
    ovs = {"in_unicast_packets": 100, "in_multicast_packets": 10}
    other = {"in_unicast_packets": 100, "in_multicast_packets": 10, "in_broadcast_packets": 5}
    add(client, [poll(20, **ovs), poll(20, if_index=8, if_name="eth0", **other)], "interface_counters")

    rows = ask(client, "SELECT interface, in_packets FROM interface_metrics_1m ORDER BY interface")
    assert [(row["interface"], row["in_packets"]) for row in rows] == [("eth0", 115), ("vnet1", 100)]


def test_two_sources_of_one_interface_count_once(client: Client) -> None:
    add(client, [poll(20, in_bytes=1_000)], "interface_counters")
    libvirt = poll(20, source="libvirt", in_bytes=980, interval_us=10_000_000, if_index=0, agent=bytes(16))
    add(client, [libvirt], "interface_counters")

    row = only(client, "SELECT * FROM interface_metrics_1m")
    assert (row["counters_from"], row["in_bytes"]) == ("sflow", 1_000)
    add(
        client,
        [libvirt | {"time_received": BEGIN_US + second * 1_000_000} for second in (30, 40)],
        "interface_counters",
    )
    assert only(client, "SELECT * FROM interface_metrics_1m")["counters_from"] == "libvirt"


def inventory(source: str, speed: int) -> dict[str, Any]:
    return {
        "valid_from": BEGIN_US,
        "valid_to": BEGIN_US + 1,
        "source": source,
        "host": "host-1",
        "port_name": "vnet1",
        "speed": speed,
    }


@pytest.mark.parametrize(
    ("stated", "known", "settings", "expected"),
    [
        ({"if_speed": 10**9}, [], {}, (10**9, "sflow")),
        ({"if_speed": 10**8}, [], {}, (10**8, "sflow")),
        ({"if_speed": 10**8, "datapath_id": 5}, [], {}, (0, "unknown")),
        ({"if_speed": 1_410_065_408, "datapath_id": 5}, [], {}, (0, "unknown")),
        ({"if_speed": 10**8, "datapath_id": 5}, [], {"*": 10**10}, (10**10, "default")),
        ({"if_speed": 10**9}, [("libvirt", 5 * 10**8)], {"*": 10**10}, (5 * 10**8, "libvirt")),
        ({"if_speed": 10**9}, [("ovsdb", 2 * 10**8)], {}, (2 * 10**8, "ovsdb")),
        ({"if_speed": 10**9}, [("libvirt", 5 * 10**8)], {"host-1/vnet1": 10**7}, (10**7, "settings")),
        ({"if_speed": 10**9}, [], {"host-1/vnet2": 10**7, "host-2/vnet1": 10**7}, (10**9, "sflow")),
    ],
)
def test_where_the_speed_comes_from(
    bare_store: StoreSettings,
    stated: dict[str, int],
    known: list[tuple[str, int]],
    settings: dict[str, int],
    expected: tuple[int, str],
) -> None:
    with store(bare_store.model_copy(update={"interface_speeds": settings})) as client:
        add(client, [poll(20, in_bytes=12_500, **stated)], "interface_counters")
        if known:
            add(client, [inventory(*one) for one in known], "inventory")

        row = only(client, "SELECT * FROM interface_metrics_1m")
        assert (row["speed"], row["speed_source"]) == expected
        assert row["utilisation"] == (pytest.approx(5_000 / expected[0]) if expected[0] else None)


def test_half_duplex_shares_the_speed(client: Client) -> None:
    shared = {"in_bytes": 12_500, "out_bytes": 12_500, "if_direction": 2, "if_speed": 10_000}
    add(client, [poll(20, **shared)], "interface_counters")

    assert only(client, "SELECT * FROM interface_metrics_1m")["utilisation"] == 1


def test_changed_settings_change_the_view_only(any_store: StoreSettings) -> None:
    with open_in_database(any_store) as client:
        assert set_up(client, any_store) == []
        changed = any_store.model_copy(update={"interface_speeds": {"it's/a \\ port": 5}})
        assert set_up(client, changed) == ["views speed_settings"]
        assert ask(client, "SELECT * FROM speed_settings") == [{"host": "it's", "interface": "a \\ port", "speed": 5}]


def test_vms_have_the_counters_of_their_interfaces(client: Client) -> None:
    add(client, [flow(A, B, "source", received=5)])
    uuid = {"vm_uuid": flow(A, B, "source")["src_vm_uuid"]}
    add(
        client,
        [poll(20, in_bytes=2_500, in_unicast_packets=90, in_discards=10, if_speed=10_000, **uuid)],
        "interface_counters",
    )

    row = only(client, "SELECT * FROM vm_metrics_1m WHERE vm = 'a'")
    assert (row["utilisation"], row["busiest_interface"]) == (0.1, "vnet1")
    assert row["loss_ratio"] == pytest.approx(0.1)
    assert (row["sent_packets"], row["counted_in_packets"]) == (1, 90)


def test_the_losses_of_exporters_are_no_traffic_loss(client: Client) -> None:
    at = BEGIN_US + 20_000_000
    report = {"time": at, "interval_us": 10_000_000, "exporter": IPv6Address("::ffff:192.0.2.11").packed}
    add(
        client,
        [
            report | {"protocol": "sflow5", "datagrams": 90, "export_lost": 10, "records": 400, "samples_lost": 100},
            report | {"protocol": "ipfix", "datagrams": 90, "export_lost": 10, "records": 40},
            {"time": at, "interval_us": 10_000_000, "kernel_drops": 5, "queue_drops": 6},
        ],
        "exporters",
    )

    rows = {row["protocol"]: row for row in ask(client, "SELECT * FROM exporter_metrics")}
    assert rows["sflow5"]["time"].timestamp() == BEGIN_US // 1_000_000 + 10
    assert rows["sflow5"]["export_loss_ratio"] == pytest.approx(0.1)  # datagrams
    assert rows["sflow5"]["sampling_loss_ratio"] == pytest.approx(0.2)
    assert rows["ipfix"]["export_loss_ratio"] == pytest.approx(0.2)  # records
    assert rows["sflow5"]["datagrams_per_second"] == 9
    assert (rows["unknown"]["kernel_drops"], rows["unknown"]["queue_drops"]) == (5, 6)


def latency(method: str, trip: str, spread: int, **values: Any) -> dict[str, Any]:
    ends = {
        name: value for name, value in flow(A, B, "source").items() if name.startswith(("src_vm", "dst_vm", "network"))
    }
    row = {
        "time": BEGIN_US,
        "interval_us": 10_000_000,
        "method": method,
        "trip": trip,
        "spread_us": spread,
        "samples": 4,
    }
    return row | ends | values


def test_latency_is_that_of_the_best_method(client: Client) -> None:
    add(client, [flow(A, B, "source", received=5)])
    assert only(client, "SELECT latency_us, latency_method FROM pair_metrics") == {
        "latency_us": None,
        "latency_method": "",
    }
    add(
        client,
        [
            latency("handshake", "round_trip", 5, latency_us=40_000),
            latency("one_way", "one_way", 900, latency_us=20_000, jitter_us=70),
        ],
        "latency",
    )

    row = only(client, "SELECT * FROM pair_metrics")
    assert (row["latency_us"], row["latency_spread_us"], row["jitter_us"]) == (20_000, 900, 70)
    assert (row["latency_method"], row["latency_trip"]) == ("one_way", "one_way")
    assert only(client, "SELECT latency_us FROM pair_metrics_1h")["latency_us"] == 20_000


def test_one_way_within_more_than_itself_says_less_than_a_round_trip(client: Client) -> None:
    add(client, [flow(A, B, "source", received=5)])
    blunt = latency("probe", "one_way", 900, latency_us=800)
    nobody = latency("probe", "round_trip", 1, latency_us=5) | {"src_vm": "", "src_vm_uuid": bytes(16)}
    add(client, [blunt, nobody], "latency")
    assert only(client, "SELECT latency_us FROM pair_metrics")["latency_us"] == 800
    add(client, [latency("probe", "round_trip", 950, latency_us=1500)], "latency")
    assert only(client, "SELECT latency_us FROM pair_metrics")["latency_us"] == 800
    add(client, [latency("tcp_info", "round_trip", 20, latency_us=1600)], "latency")

    row = only(client, "SELECT latency_us, latency_method FROM pair_metrics")
    assert (row["latency_us"], row["latency_method"]) == (1600, "tcp_info")


def test_views_of_longer_windows_have_the_columns_of_their_query(client: Client) -> None:
    """They are made with those of the view of 10 s, since ClickHouse takes half a second to work them out."""
    longer = [view for view in VIEWS if view.name.endswith(("_metrics_1m", "_metrics_1h"))]
    assert len(longer) == 10

    for view in longer:
        stated, of_query = (client.query(f"DESCRIBE TABLE {of}").result_rows for of in (view.name, f"({view.select})"))
        assert [row[:2] for row in stated] == [row[:2] for row in of_query], view.name
