"""The exporter doctor: each finding fires on what is wrong, stays silent on what is right, and its line repairs it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver import Client

from collector.__main__ import main
from collector.analyze.doctor import BOUNDS, CHECKS, Doctor, Finding, examine
from collector.analyze.settings import AnalyzeSettings
from collector.metrics import Metrics
from collector.sql.engine import Engine, Query
from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.threads import Bridge, run
from tests.analyze.support import BASE_US, SECOND_US, WINDOW_US, export, heard
from tests.decoders.support import address
from tests.deploy.ovs_blocks import missing_program, running_switch
from tests.flow_rows import add

HOST = "192.0.2.11"
FLOW = {
    "time_received": BASE_US + SECOND_US, "exporter": address(HOST), "protocol": "ipfix", "domain": 7, "packets": 1,
    "sampling_rate": 1, "in_if_name": "vnet1", "direction": "ingress",
}  # fmt: skip
SAMPLE = {
    "time_received": BASE_US + SECOND_US, "exporter": address(HOST), "agent": address(HOST), "protocol": "sflow5",
    "sampling_rate": 64, "rate_source": "record", "packets": 1, "samples": 1, "ip_protocol": 6, "src_port": 1_000,
    "dst_port": 80, "in_if": 7,
}  # fmt: skip
POLL = {
    "time_received": BASE_US + SECOND_US, "exporter": address(HOST), "agent": address(HOST), "source": "sflow",
    "if_index": 7, "if_name": "vnet1",
}  # fmt: skip


@pytest.fixture
def client(emptied_store: Client) -> Client:
    return emptied_store


def look(client: Client, until_us: int = BASE_US + 6 * WINDOW_US, seconds: int = 600) -> list[Finding]:
    return examine(client, until_us, seconds)


def codes(client: Client, until_us: int = BASE_US + 6 * WINDOW_US) -> set[str]:
    return {finding.code for finding in look(client, until_us)}


def one(client: Client, code: str) -> Finding:
    (finding,) = (finding for finding in look(client) if finding.code == code)
    return finding


# Real captures.


def of_capture(client: Client, stem: str) -> set[tuple[str, str]]:
    """Code and exporter of what a capture gives."""
    capture = export(stem)
    # Samples name their ports by ifIndex, which these captures' names do not know: seen by the VMs' own hosts.
    add(client, [row | ({"sighting": "both"} if row["protocol"] == "sflow5" else {}) for row in capture.flows])
    if capture.counters:
        add(client, capture.counters, "interface_counters")
    return {(finding.code, finding.exporter) for finding in look(client, capture.end_us)}


HOSTS = ("192.0.2.11", "192.0.2.12")


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        # Both directions are sampled; counts of single packets prove that nothing is multiplied.
        ("ovs_ipfix_tunnel", {(code, host) for code in ("sampled_twice", "rate_unknown") for host in HOSTS}),
        ("ovs_ipfix_nocache", {(code, host) for code in ("sampled_twice", "rate_unknown") for host in HOSTS}),
        ("ovs_ipfix_input_only", {("rate_unknown", host) for host in HOSTS}),
        ("ovs_ipfix_s16", {(code, host) for code in ("sampled_twice", "rate_hidden") for host in HOSTS}),
        # pmacct states no rate unless it samples: nobody can tell from the stream.
        ("pmacct_nfprobe_v9", {("rate_unstated", HOST)}),
        ("pmacct_ipfix", {("rate_unstated", HOST)}),
        ("softflowd_v9", set()),
        ("softflowd_ipfix", set()),
        ("ovs_netflow5", set()),
        ("ovs_sflow_exact_s1", set()),
        ("ovs_sflow_tcp_udp_s64", set()),
        ("ovs_sflow_mixed", set()),
        ("ovs_sflow_lossy", set()),
        ("ovs_sflow_vlan", set()),
        ("pmacct_sfprobe_s16", set()),
    ],
)
def test_findings_of_captures(client: Client, stem: str, expected: set[tuple[str, str]]) -> None:
    assert of_capture(client, stem) == expected


def test_the_hidden_rate_is_named(client: Client) -> None:
    of_capture(client, "ovs_ipfix_s16")
    capture = export("ovs_ipfix_s16")

    sentences = [f.sentence for f in look(client, capture.end_us) if f.code == "rate_hidden"]

    assert len(sentences) == 2
    assert all("samples 1 in 16 packets" in sentence for sentence in sentences)


# Rows made up: fires, and does not.


def test_few_records_prove_no_rate(client: Client) -> None:
    add(client, [FLOW | {"packets": 16 * number} for number in range(1, 20)])
    assert codes(client) == set()
    add(client, [FLOW | {"packets": 16}])
    assert codes(client) == {"rate_hidden"}
    add(client, [FLOW | {"packets": 17}])
    assert codes(client) == {"rate_unknown"}
    assert one(client, "rate_unknown").repair[-3:] == (f'network = "{HOST}"', 'protocol = "ipfix"', "sampling_rate = 1")


def test_two_directions_of_two_bridges_are_no_double_sampling(client: Client) -> None:
    add(client, [FLOW, FLOW | {"domain": 8, "direction": "egress"}])
    assert codes(client) == set()


def test_double_sampling_names_both_versions_of_the_repair(client: Client) -> None:
    add(client, [FLOW, FLOW, FLOW | {"direction": "egress"}])

    finding = one(client, "sampled_twice")
    stated = FLOW | {"exporter": address("192.0.2.12"), "rate_source": "override"}
    add(client, [stated, stated | {"direction": "egress"}])
    assert [one.exporter for one in look(client) if one.code == "sampled_twice"] == [HOST], "it is meant to be so"

    assert (finding.exporter, finding.agent, finding.domain, finding.protocol) == (HOST, "::", 7, "ipfix")
    assert "come in (2 records)" in finding.sentence
    assert "go out (1)" in finding.sentence
    assert "ovs-vsctl clear Bridge br-int ipfix" in finding.repair
    assert "enable-output-sampling=true" in finding.repair[-1]


@pytest.mark.parametrize(("seconds", "fires"), [(65, False), (71, True), (600, True)])
def test_age_of_templates(client: Client, seconds: int, fires: bool) -> None:
    heard(client, BASE_US + SECOND_US, HOST, template_age_us=seconds * SECOND_US, records=5)
    # Old templates of an exporter that has nothing to say are no fault: they come before the next record.
    heard(client, BASE_US + SECOND_US, "192.0.2.12", template_age_us=3600 * SECOND_US, records=0)

    assert codes(client) == ({"templates_rare"} if fires else set())
    if fires:
        assert f"no template for {seconds} s" in one(client, "templates_rare").sentence


@pytest.mark.parametrize(
    ("held", "waited"),
    [
        ([300] * 5, 40),
        ([300] * 4, 0),
        ([300, 0, 300, 300, 300], 0),
        ([300] * 5 + [0], 0),
        ([0, 300, 300, 300, 300], 40),
    ],
)
def test_data_that_waits_for_its_template(client: Client, held: list[int], waited: int) -> None:
    """By the rows of 10 s of one port; what waited at another port that is silent now does not count with it."""
    for number, octets in enumerate(held):
        heard(client, BASE_US + number * WINDOW_US, HOST, held_bytes=octets, source_port=7, datagrams=3)
    heard(client, BASE_US, HOST, held_bytes=0, source_port=6)

    assert codes(client) == ({"templates_held"} if waited else set())
    if waited:
        reported = f"300 octets of its data have waited for their template for {waited} s"
        assert one(client, "templates_held").sentence.startswith(reported)


@pytest.mark.parametrize(("counters", "rows", "fires"), [(0, 7, True), (0, 4, False), (1, 7, False)])
def test_an_agent_that_does_not_poll(client: Client, counters: int, rows: int, fires: bool) -> None:
    for number in range(rows):
        sent = {"records": 5, "counter_records": counters, "interval_us": WINDOW_US}
        heard(client, BASE_US + number * WINDOW_US // 2, HOST, protocol="sflow5", **sent)

    assert codes(client) == ({"counters_missing"} if fires else set())


def test_an_agent_address_of_no_hypervisor(client: Client) -> None:
    """VMs are named by their MAC, but none is seen to send or receive; another agent sees one."""
    add(client, [SAMPLE | {"src_vm": "a", "dst_vm": "b", "sighting": "transit"}] * 20)
    other = SAMPLE | {"agent": address("192.0.2.12"), "src_vm": "a", "dst_vm": "b"}
    add(client, [other | {"sighting": "transit"}] * 20 + [other | {"sighting": "source", "domain": 1}])
    assert codes(client) == {"agent_unknown"}
    assert f"Its agent address {HOST} is that of no hypervisor" in one(client, "agent_unknown").sentence


def test_an_agent_without_an_address(client: Client) -> None:
    add(client, [SAMPLE | {"agent": address("0.0.0.0")}] * 20)
    assert codes(client) == {"agent_unknown"}


def test_an_exporter_of_no_hypervisor(client: Client) -> None:
    """Its records name VMs at both ends, and nothing is seen to be sent or got at any; a router's look the same."""
    named = FLOW | {"packets": 7, "rate_source": "record", "src_vm": "a", "dst_vm": "b"}
    add(client, [named | {"protocol": "netflow5", "sighting": "unknown"}] * 20)
    other = named | {"exporter": address("192.0.2.12")}
    add(client, [other | {"sighting": "transit", "in_if_name": "tap0"}] * 20)
    assert codes(client) == {"exporter_unknown"}, "a port that no VM is known to have proves nothing"
    port = {"valid_from": BASE_US, "valid_to": BASE_US, "open": 1, "source": "ovsdb", "vm": "a", "port_name": "tap0"}
    add(client, [port], "inventory")
    found = [one for one in look(client) if one.code == "exporter_unknown"]
    assert [(one.exporter, one.protocol) for one in found] == [(HOST, "netflow5"), ("192.0.2.12", "ipfix")]
    assert found[1].repair[-1] == 'exporters = ["192.0.2.12"]'


def test_samples_of_two_bridges(client: Client) -> None:
    """The second sees only what passes; where it sees a VM get something, it is needed."""
    add(client, [SAMPLE | {"sighting": "source"}] * 20 + [SAMPLE | {"domain": 1, "sighting": "transit"}] * 20)
    needed = SAMPLE | {"exporter": address("192.0.2.12"), "agent": address("192.0.2.12")}
    add(client, [needed | {"sighting": "source"}] * 20 + [needed | {"domain": 1, "sighting": "transit"}] * 20)
    add(client, [needed | {"domain": 1, "sighting": "destination"}])

    assert codes(client) == {"two_bridges"}
    assert "2 bridges (sub-agents 0, 1)" in one(client, "two_bridges").sentence


@pytest.mark.parametrize(("both", "fires"), [(3, True), (2, False)])
def test_one_domain_from_two_ports(client: Client, both: int, fires: bool) -> None:
    """Two bridges, or two targets of one; a change of the settings is over within two intervals."""
    for number in range(6):
        heard(client, BASE_US + number * WINDOW_US, HOST, source_port=4000, records=5)
        other = {"records": 5} if number < both else {"datagrams": 1}
        heard(client, BASE_US + number * WINDOW_US, HOST, source_port=4001, **other)
        heard(client, BASE_US + number * WINDOW_US, HOST, source_port=4002, domain=2, records=5)

    assert codes(client) == ({"two_ports"} if fires else set())
    if fires:
        assert "from 2 ports at a time" in one(client, "two_ports").sentence


def test_a_host_that_sees_no_arrivals_of_a_network(client: Client) -> None:
    """h1 sends to h2 in networks x and y; h2 sends, too, and sees what arrives of y only."""
    there = {"exporter": address("192.0.2.12"), "agent": address("192.0.2.12")}
    sent = SAMPLE | {"src_host": "h1", "dst_host": "h2", "sighting": "source", "src_vm": "a", "dst_vm": "b"}
    add(client, [sent | {"network": "x"}] * 20 + [sent | {"network": "y"}] * 20)
    add(client, [sent | there | {"network": "y", "sighting": "destination"}])
    assert codes(client) == set()
    add(client, [sent | there | {"src_host": "h2", "dst_host": "h1", "network": "x"}])

    finding = one(client, "arrivals_unseen")
    assert finding.exporter == "192.0.2.12"
    assert finding.sentence.startswith(
        "20 records show packets sent to its VMs in network 'x', and none was seen to arrive"
    )


def test_a_host_that_sees_no_arrivals_of_some_pairs(client: Client) -> None:
    """Networks have no names here: what arrives by a tunnel proves nothing for what comes over a patch port."""
    there = {"exporter": address("192.0.2.12"), "agent": address("192.0.2.12")}
    sent = SAMPLE | {"src_host": "h1", "dst_host": "h2", "sighting": "source", "network": "", "src_vm": "a"}
    add(client, [sent | {"dst_vm": "tunnelled"}] * 20 + [sent | {"dst_vm": "vlan"}] * 20 + [sent | {"dst_vm": "few"}])
    add(client, [sent | there | {"dst_vm": "tunnelled", "sighting": "destination"}])
    add(client, [sent | there | {"src_host": "h2", "dst_host": "h1", "dst_vm": "c"}])

    finding = one(client, "arrivals_unseen")
    assert finding.exporter == "192.0.2.12"
    assert finding.sentence.startswith("20 records show packets sent to its VMs, and none was seen to arrive")


def test_templates_that_did_not_come(client: Client) -> None:
    heard(client, BASE_US + SECOND_US, HOST, problems=[("no_template", 4)])
    heard(client, BASE_US + SECOND_US, "192.0.2.12", problems=[("skipped_record", 4)])

    assert one(client, "templates_missing").sentence.startswith("4 sets of records")
    assert len(look(client)) == 1


@pytest.mark.parametrize(
    ("speed", "code"),
    [
        (100_000_000, "speed_unknown"),
        # 10, 25, 40 and 100 Gbit/s modulo 2^32
        (10_000_000_000 % 2**32, "speed_wrapped"),
        (25_000_000_000 % 2**32, "speed_wrapped"),
        (40_000_000_000 % 2**32, "speed_wrapped"),
        (100_000_000_000 % 2**32, "speed_wrapped"),
        (1_000_000_000, ""),
        (10_000_000_000, ""),
        (0, ""),
    ],
)
def test_speeds_that_are_none(client: Client, speed: int, code: str) -> None:
    add(client, [POLL | {"if_speed": speed}, POLL | {"if_speed": speed, "if_index": 8, "if_name": "vnet2"}],
        "interface_counters")  # fmt: skip
    # What another source than the stream says is no fault of the exporter.
    add(client, [POLL | {"if_speed": 100_000_000, "source": "libvirt"}], "interface_counters")

    assert codes(client) == ({code} if code else set())
    if code:
        assert "2 interfaces (vnet1, vnet2)" in one(client, code).sentence


def test_headers_cut_before_the_inner_ports(client: Client) -> None:
    whole = [SAMPLE] * 99
    cut = SAMPLE | {"src_port": 0, "dst_port": 0, "tunnel": "vxlan"}
    add(client, whole)
    # Later fragments and ICMP have no ports in any header.
    add(client, [SAMPLE | {"src_port": 0, "dst_port": 0, "fragment": 2}] * 50)
    add(client, [SAMPLE | {"src_port": 0, "dst_port": 0, "ip_protocol": 1}] * 50)
    assert codes(client) == set()

    add(client, [cut])

    finding = one(client, "header_cut")
    assert finding.sentence.startswith("1 of 100 samples of TCP, UDP and SCTP end before the ports (1 of them inside")
    assert finding.agent == HOST


@pytest.mark.parametrize(
    ("skew_seconds", "fires"), [(1.5, False), (-1.5, False), (-2.5, True), (3.5, True), (-3600.0, True)]
)
def test_clocks(client: Client, skew_seconds: float, fires: bool) -> None:
    for number in range(3):
        skew = round(skew_seconds * SECOND_US)
        heard(client, BASE_US + number * WINDOW_US + 1, HOST, clock_skew_us=skew)
    # One datagram that was late makes no wrong clock.
    heard(client, BASE_US + 4 * WINDOW_US, HOST, clock_skew_us=0)

    assert codes(client) == ({"clock_wrong"} if fires else set())
    if fires:
        assert f"differs from ours by {skew_seconds:+.1f} s" in one(client, "clock_wrong").sentence


def test_templates_without_room(client: Client) -> None:
    heard(client, BASE_US + 1, HOST, problems={"trailing": 3}, templates=9)
    assert codes(client) == set()
    heard(client, BASE_US + WINDOW_US, HOST, problems={"template_limit": 5}, templates=7)
    assert one(client, "templates_full").sentence.startswith("5 of its templates had to go for want of room (9 are")


@pytest.mark.parametrize(("odd", "fires"), [(40, False), (60, True)])
def test_numbers_in_odd_units(client: Client, odd: int, fires: bool) -> None:
    heard(client, BASE_US + 1, HOST, protocol="netflow9", datagrams=100, problems={"sequence_units": odd})
    assert codes(client) == ({"sequence_units"} if fires else set())


def test_restarts(client: Client) -> None:
    heard(client, BASE_US + 1, HOST, restarts=0)
    assert codes(client) == set()
    heard(client, BASE_US + WINDOW_US, HOST, restarts=2)
    assert one(client, "restarted").sentence.startswith("It began again 2 times")


def test_gaps(client: Client) -> None:
    heard(client, BASE_US + 1, HOST, protocol="sflow5", datagrams=9_991, records=70_000, export_lost=9)
    assert codes(client) == set()
    heard(client, BASE_US + 2, HOST, protocol="sflow5", datagrams=0, export_lost=11)
    add(client, [{"time": BASE_US + 3, "exporter": bytes(16), "kernel_drops": 13}], "exporters")

    sentence = one(client, "export_lost").sentence

    assert sentence.startswith("20 of 10011 datagrams did not arrive")
    assert "dropped 13 datagrams" in sentence


def test_gaps_of_records_are_reported_in_records(client: Client) -> None:
    heard(client, BASE_US + 1, HOST, datagrams=10, records=90, export_lost=10)
    assert one(client, "export_lost").sentence.startswith("10 of 100 records did not arrive")


def test_samples_lost_in_the_switch(client: Client) -> None:
    heard(client, BASE_US + 1, HOST, protocol="sflow5", records=10_000, datapath_lost=9)
    assert codes(client) == set()
    heard(client, BASE_US + 2, HOST, protocol="sflow5", records=0, datapath_lost=11, agent_drops=5)
    assert one(client, "samples_lost").sentence.startswith("5 samples and 20 packets")


def test_what_is_older_is_not_looked_at(client: Client) -> None:
    heard(client, BASE_US - 3600 * SECOND_US, HOST, restarts=2, export_lost=100)
    add(client, [FLOW | {"time_received": BASE_US - 3600 * SECOND_US}] * 2)
    add(client, [FLOW | {"time_received": BASE_US - 3600 * SECOND_US, "direction": "egress"}])
    assert codes(client) == set()


# Samples against counters.


def verdicts(client: Client) -> dict[int, tuple[str, str]]:
    rows = client.query("SELECT if_index, verdict, exporter_verdict FROM reconciliation").result_rows
    return {int(index): (str(verdict), str(whole)) for index, verdict, whole in rows}


def polls(octets: int, index: int = 7, count: int = 6, **columns: Any) -> list[dict[str, Any]]:
    """`count` polls, 10 s apart, that share `octets`."""
    return [
        POLL
        | {"time_received": BASE_US + (at + 1) * WINDOW_US, "if_index": index, "delta_state": "ok"}
        | {"interval_us": WINDOW_US, "in_bytes_delta": octets // count}
        | columns
        for at in range(count)
    ]


def samples(many: int, length: int = 1_000, index: int = 7) -> list[dict[str, Any]]:
    """Samples at 1 in 64, spread over the minute."""
    step = 60 * SECOND_US // max(many, 1)
    return [
        SAMPLE | {"time_received": BASE_US + at * step + 1, "in_if": index, "frame_bytes": length} for at in range(many)
    ]


@pytest.mark.parametrize(
    ("sampled", "counted", "verdict"),
    [
        # 1,000 samples of 1,000 octets stand for 64 MB ± 6.2 %; tolerance 5 %, edge 2 s of 60.
        (1_000, 64_000_000, "consistent"),
        (1_000, 64_000_000 * 1.13, "consistent"),
        (1_000, 64_000_000 * 2, "too_few"),
        (1_000, 64_000_000 / 2, "too_many"),
        (0, 64_000_000, "too_few"),
        # 5 samples expected: whatever is seen proves nothing.
        (0, 5 * 64_000, "insufficient"),
        (9, 5 * 64_000, "insufficient"),
    ],
)
def test_samples_against_counters(client: Client, sampled: int, counted: float, verdict: str) -> None:
    # Another interface shows at which rate the agent samples.
    add(client, [*samples(sampled), *samples(1_000, index=9)])
    add(client, [*polls(round(counted)), *polls(64_000_000, index=9)], "interface_counters")

    assert verdicts(client)[7][0] == verdict
    assert verdicts(client)[9][0] == "consistent"


def test_the_exporter_is_judged_by_the_sum(client: Client) -> None:
    add(client, [row for index in range(1, 31) for row in samples(20, index=index)])
    add(client, [row for index in range(1, 31) for row in polls(2 * 20 * 64_000, index=index)], "interface_counters")

    found = verdicts(client)
    assert {whole for _, whole in found.values()} == {"too_few"}

    finding = one(client, "counters_differ")
    assert "38400000 octets, its interface counters say 76799" in finding.sentence
    assert "too few for chance" in finding.sentence


def test_polls_with_gaps_or_resets_prove_nothing(client: Client) -> None:
    add(client, [*samples(1_000), *samples(1_000, index=8)])
    add(client, [row for row in polls(640_000_000) if row["time_received"] != BASE_US + 3 * WINDOW_US],
        "interface_counters")  # fmt: skip
    add(client, polls(640_000_000, index=8, delta_state="reset"), "interface_counters")

    assert verdicts(client) == {7: ("insufficient", "insufficient")}


@pytest.mark.parametrize("stem", ["ovs_sflow_tcp_udp_s64", "ovs_sflow_mixed", "ovs_sflow_vlan"])
def test_intervals_hold_the_truth_of_captures(client: Client, stem: str) -> None:
    """The counters of the switch are the truth.  What is in flight at the first and last poll is beyond sampling."""
    capture = export(stem)
    add(client, capture.flows)
    add(client, capture.counters, "interface_counters")

    rows = list(client.query("SELECT * FROM reconciliation WHERE samples >= 30").named_results())

    assert len(rows) >= 2
    for row in rows:
        in_flight = row["bytes_counted"] * 2 / (row["ends"] - row["begins"]).total_seconds()
        assert row["bytes_low"] - in_flight <= row["bytes_counted"] <= row["bytes_high"] + in_flight
        assert row["verdict"] in ("consistent", "insufficient")


# The lines, the command and the service.


@pytest.mark.skipif(bool(missing_program()), reason=missing_program())
def test_open_vswitch_takes_every_line() -> None:
    """The lines of each check in their order, from the same beginning.

    An exporter that is changed in place sends its next template up to 600 s later before Open vSwitch 3.2: lines
    create another one, unless they need 3.2 anyway.
    """
    assert all("set IPFIX" not in line or "template_interval" in line for check in CHECKS for line in check.repair)
    with tempfile.TemporaryDirectory(prefix="ovs") as folder, running_switch(Path(folder)) as switch:
        for check in CHECKS:
            switch.shell(
                "ovs-vsctl -- --id=@s create sFlow 'targets=\"192.0.2.1:6343\"' -- set Bridge br-int sflow=@s\n"
                "ovs-vsctl -- --id=@i create IPFIX 'targets=\"192.0.2.1:4739\"' -- set Bridge br-int ipfix=@i"
            )
            for line in check.repair:
                if line.startswith("ovs-vsctl") and (
                    "template_interval" not in line or switch.has_column("template_interval")
                ):
                    switch.shell(line)


def test_every_check_has_what_repairs_it_and_a_code_of_its_own() -> None:
    assert len({check.code for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert any(not line.startswith("#") for line in check.repair), check.code
        assert "," not in check.code


def command(client: Client, settings: StoreSettings, *arguments: str) -> int:
    overrides = [f"store.url={settings.url}", f"store.database={settings.database}", "sql.enabled=false"]
    sets = [word for override in overrides for word in ("--set", override)]
    return main(["exporters", "--doctor", *sets, *arguments])


def test_the_command_prints_for_people(
    client: Client, made_store: StoreSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    add(client, [FLOW, FLOW | {"direction": "egress"}])
    heard(client, BASE_US + SECOND_US, HOST, restarts=1)

    assert command(client, made_store, "--minutes", "90") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{HOST} ipfix, domain 0: restarted"
    assert lines[1].startswith("  It began again 1 times")
    assert "    ovs-vsctl list IPFIX" in lines


def test_the_command_prints_json_and_says_when_there_is_nothing(
    client: Client, made_store: StoreSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(client, made_store) == 0
    assert capsys.readouterr().out == "nothing found\n"

    heard(client, BASE_US + SECOND_US, HOST, restarts=1)
    assert command(client, made_store, "--minutes", "90", "--format", "json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) | {"sentence": "", "repair": []} == {
        "code": "restarted", "exporter": HOST, "agent": "::", "domain": 0, "protocol": "ipfix", "sentence": "",
        "repair": [],
    }  # fmt: skip

    assert command(client, made_store, "--minutes", "90", "--format", "csv") == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out, newline=""))
    assert (row["code"], row["exporter"], row["domain"]) == ("restarted", HOST, "0")
    assert "ovs-vsctl list IPFIX" in row["repair"].split("; ")

    assert command(client, made_store, "--format", "Parquet") == 2


def test_the_service_looks_again_and_again(client: Client, made_store: StoreSettings) -> None:
    def connect() -> Client:
        connected = open_client(made_store)
        connected.database = made_store.database
        return connected

    heard(client, BASE_US + SECOND_US, HOST, restarts=1, clock_skew_us=9 * SECOND_US)
    now = [BASE_US + 5 * SECOND_US]
    stream = (address(HOST), bytes(16), 0, "ipfix")

    def use(connect: Callable[[], Client]) -> tuple[Doctor, Metrics]:
        metrics = Metrics()

        async def scenario() -> Doctor:
            async with Bridge({"doctor": 1}) as bridge:
                call = partial(bridge.call, "doctor")
                doctor = Doctor(AnalyzeSettings(), metrics, call, connect, clock_us=lambda: now[0])
                async with doctor:
                    await doctor.look()
                return doctor

        return run(scenario(), debug=True), metrics

    doctor, metrics = use(connect)
    assert doctor.codes(*stream) == "clock_wrong,restarted"
    assert doctor.codes(address(HOST), bytes(16), 1, "ipfix") == ""
    assert metrics.value("exporter_findings", code="restarted") == 1
    assert metrics.value("exporter_findings", code="sampled_twice") == 0

    now[0] += 3600 * SECOND_US
    doctor, _ = use(connect)
    assert doctor.codes(*stream) == ""

    def refuse() -> Client:
        raise ConnectionRefusedError("nobody listens")

    _, metrics = use(refuse)
    assert metrics.value("doctor_looks_total", result="failed") == 1


def test_the_loop_of_the_service_looks_by_itself(client: Client, made_store: StoreSettings) -> None:
    metrics = Metrics()

    def connect() -> Client:
        connected = open_client(made_store)
        connected.database = made_store.database
        return connected

    async def scenario() -> None:
        async with Bridge({"doctor": 1}) as bridge:
            settings = AnalyzeSettings(doctor_seconds=1)
            call = partial(bridge.call, "doctor")
            async with Doctor(settings, metrics, call, connect, clock_us=lambda: BASE_US), asyncio.timeout(120):
                while metrics.value("doctor_looks_total", result="ok") != 2:  # noqa: ASYNC110 - has no event
                    await asyncio.sleep(0.01)

    run(scenario(), debug=True)


def test_the_running_service_answers_the_doctor(client: Client, made_store: StoreSettings) -> None:
    """Where a service runs, the command asks through the read-only endpoint: it must let all queries pass."""
    heard(client, BASE_US + SECOND_US, HOST, restarts=1)
    assert made_store.directory is not None
    engine = Engine(made_store.directory, made_store)
    limits = {name: str(value) for name, value in BOUNDS.settings().items()}
    found = []
    try:
        for check in CHECKS:
            sql = check.sql.format(since=BASE_US, recent=BASE_US, until=BASE_US + WINDOW_US)
            answer = engine.run(Query(sql.encode(), made_store.database, "JSONEachRow", {}, limits))
            found += [check.code for _ in bytes(answer.body).splitlines()]
    finally:
        engine.close()

    assert found == ["restarted"]
