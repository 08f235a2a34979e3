"""The exporter doctor: what is wrong with an exporter, found from its stream alone, and the lines that repair it.

`CHECKS` is the list of checks.  `examine` runs them once, for the command line.  `Doctor` is the part of the service
that runs them at intervals, so that the rows of table `exporters` carry the codes of what it found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address
from typing import Any, Self

from clickhouse_connect.driver import Client

from collector.analyze.settings import AnalyzeSettings
from collector.analyze.watermark import SECOND_US
from collector.interfaces import Call, Clock
from collector.log import get_log
from collector.metrics import Metrics
from collector.stopping import cancel
from collector.store_errors import first_line
from collector.store_reader import Bounds, Reader, read_rows

LEAST_RECORDS = 20
"""Records from which a statement about a whole stream is made."""

SKEW_SECONDS = 2
"""Open vSwitch states the time of sending rounded up to a second: half a second ahead if right."""

TEMPLATE_SECONDS = 60
"""Longest interval that is recommended: a new collector may be blind for this long."""

POLL_SECONDS = 10
"""The age of templates is noted once per interval of `exporters`, 10 s."""

LEAST_INTERVALS = 3
"""Intervals of 10 s in which a stream came from two ports: more than a change of its settings leaves."""

HELD_SECONDS = 30
"""Data that waits this long for its template will wait for the next announcement."""

POLLED_SECONDS = 50
"""An sFlow agent that polls at all is not silent about its interfaces for this long: 30 s are the default."""

FALLBACK_SPEED = 100_000_000
"""ifSpeed of a port whose speed Open vSwitch does not know, such as a tap (ofproto-dpif-sflow.c)."""

WRAPPED_SPEEDS = (1_410_065_408, 3_525_163_520, 1_345_294_336, 1_215_752_192)
"""10, 25, 40 and 100 Gbit/s cut to 32 bits by Open vSwitch since 3.2 (ofproto-dpif-sflow.c)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that can be wrong with an exporter: one query, one sentence, and the lines that repair it.

    A query returns `exporter`, `agent`, `domain`, `protocol` and the values that its sentence names.  Its placeholders
    are the ends of the period, µs since 1970: `{since}` and `{until}` for tables of few rows, `{recent}` and `{until}`
    for `flows`.  The commands are those of deploy/ovs.md, and the tests run them against a real Open vSwitch: `br-int`
    stands for the bridge that exports.
    """

    code: str
    sql: str
    sentence: str
    """Its placeholders are columns of the query."""
    repair: tuple[str, ...]
    """Lines to type or to set; what is not a command begins with #."""


_KEY = "exporter, agent, domain, protocol"
_FLOWS = (
    "FROM flows WHERE time_received >= fromUnixTimestamp64Micro({recent}) "
    "AND time_received < fromUnixTimestamp64Micro({until})"
)
_EXPORTERS = (
    "FROM exporters WHERE time >= fromUnixTimestamp64Micro({since}) AND time < fromUnixTimestamp64Micro({until}) "
    "AND exporter != '::'"
)
_COUNTERS = (
    "FROM interface_counters WHERE time_received >= fromUnixTimestamp64Micro({since}) "
    "AND time_received < fromUnixTimestamp64Micro({until}) AND source = 'sflow'"
)
_PROOF = "if(network != '', ('', ''), (src_vm, dst_vm))"
"""The pair whose arrivals are proof that its arrivals are seen: any of a network that has a name, else this one."""
_OVS = "protocol = 'ipfix' AND in_if_name != ''"
"""Open vSwitch since 2.9 puts the interface's name into each IPFIX record where it knows it."""


def _created_again(values: str) -> tuple[str, ...]:
    """Return the lines that change the IPFIX of a bridge at once: `set` opens a port, whose templates come later."""
    return (
        "# create it again, with your own values (deploy/ovs.md): after `set` its templates come up to 600 s later",
        "ovs-vsctl clear Bridge br-int ipfix",
        f"ovs-vsctl -- --id=@ipfix create IPFIX 'targets=\"192.0.2.1:4739\"' {values} "
        "obs_domain_id=11 cache_active_timeout=10 cache_max_flows=8192 -- set Bridge br-int ipfix=@ipfix",
    )


CHECKS = (
    Check(
        "rate_unstated",
        f"""
        SELECT {_KEY}, count() AS records
        {_FLOWS} AND protocol IN ('netflow9', 'ipfix') AND rate_source = 'unstated'
        GROUP BY {_KEY}
        HAVING countIf({_OVS}) = 0""",
        "It states no sampling rate ({records} records): its counts are taken as they are, which is too low if it "
        "samples.",
        (
            "# in the settings of vmflow, if it samples 1 in N packets and does not multiply itself:",
            "[[decode.exporters]]",
            'network = "{exporter}"',
            'protocol = "{protocol}"',
            "sampling_rate = N",
        ),
    ),
    Check(
        "rate_unknown",
        f"""
        SELECT {_KEY}, count() AS records
        {_FLOWS} AND {_OVS} AND rate_source = 'unstated' AND packets > 0
        GROUP BY {_KEY}
        HAVING records >= {LEAST_RECORDS}
            AND arrayFold((a, b) -> gcd(a, b), groupUniqArray(1000)(packets), max(packets)) = 1""",
        "Its {records} packet counts have no common factor, so it samples every packet, and states that nowhere: "
        "unless it is set, vmflow takes its figures for estimates of unknown width.",
        (
            "# in the settings of vmflow, where `sampling=1` is set:",
            "[[decode.exporters]]",
            'network = "{exporter}"',
            'protocol = "ipfix"',
            "sampling_rate = 1",
        ),
    ),
    Check(
        "rate_hidden",
        f"""
        SELECT {_KEY}, arrayFold((a, b) -> gcd(a, b), groupUniqArray(1000)(packets), max(packets)) AS rate,
            count() AS records
        {_FLOWS} AND protocol IN ('netflow9', 'ipfix') AND rate_source = 'unstated' AND packets > 0
        GROUP BY {_KEY}
        HAVING records >= {LEAST_RECORDS} AND rate > 1""",
        "All {records} packet counts are multiples of {rate}: it samples 1 in {rate} packets, multiplies its counts, "
        "and states the rate nowhere. The totals are right, but loss and latency cannot be exact.",
        _created_again("sampling=1 other_config:enable-output-sampling=true"),
    ),
    Check(
        "sampled_twice",
        f"""
        SELECT {_KEY}, countIf(direction = 'ingress') AS coming, countIf(direction = 'egress') AS going
        {_FLOWS} AND {_OVS}
        GROUP BY {_KEY}
        HAVING coming > 0 AND going > 0 AND countIf(rate_source = 'override' AND sampling_rate = 1) = 0""",
        "It samples packets where they come in ({coming} records) and again where they go out ({going}): sums over all "
        "of its records are double, those by `sighting` are right. Loss needs both.",
        (
            "# for loss and latency leave it so, and state `sampling_rate = 1` for it (deploy/ovs.md); for traffic",
            "# alone, Open vSwitch 3.2 and later `false`, 2.4 to 3.1 take the key the wrong way round:",
            *_created_again("sampling=64 other_config:enable-output-sampling=true"),
        ),
    ),
    Check(
        "templates_rare",
        f"""
        SELECT {_KEY}, round(max(template_age_us) / 1e6) AS age
        {_EXPORTERS} AND records > 0
        GROUP BY {_KEY}
        HAVING age > {TEMPLATE_SECONDS + POLL_SECONDS}""",
        "It sent no template for {age:.0f} s: a collector that restarts, or loses the one datagram, cannot read its "
        "records for so long.",
        (
            "# Open vSwitch 3.2 and later; before, 600 s is fixed, and vmflow keeps templates over its own restarts",
            'ovs-vsctl set IPFIX "$(ovs-vsctl get Bridge br-int ipfix)" template_interval=60',
        ),
    ),
    Check(
        "templates_held",
        f"""
        SELECT {_KEY}, sum(octets) AS octets, max(waits) AS waited
        FROM (
            SELECT {_KEY}, source_port, argMax(held_bytes, time) AS octets,
                dateDiff('second', ifNull(maxOrNullIf(time, held_bytes = 0), min(time)), max(time)) AS waits
            {_EXPORTERS}
            GROUP BY {_KEY}, source_port
        )
        GROUP BY {_KEY}
        HAVING octets > 0 AND waited > {HELD_SECONDS}""",  # noqa: S608 - nothing from outside
        "{octets} octets of its data have waited for their template for {waited} s: nothing of it is in the tables, "
        "and what waits for longer than 11 minutes is lost.",
        (
            "# it sends its templates again when its IPFIX is created again:",
            *_created_again("sampling=64 other_config:enable-output-sampling=true"),
        ),
    ),
    Check(
        "counters_missing",
        f"""
        SELECT {_KEY}, sum(records) AS samples
        {_EXPORTERS} AND protocol = 'sflow5'
        GROUP BY {_KEY}
        HAVING samples >= {LEAST_RECORDS} AND sum(counter_records) = 0
            AND sum(interval_us) >= {POLLED_SECONDS} * 1000000""",
        "It sends samples ({samples}) but no counters of its interfaces: there is no utilisation, and no error or drop "
        "of an interface is seen.",
        ("ovs-vsctl set sFlow br-int polling=10",),
    ),
    Check(
        "agent_unknown",
        f"""
        SELECT exporter, agent, first AS domain, 'sflow5' AS protocol, samples
        FROM (
            SELECT exporter, agent, min(domain) AS first, count() AS samples,
                countIf(sighting IN ('source', 'destination', 'both')) AS seen,
                countIf(src_vm != '' OR dst_vm != '') AS named
            {_FLOWS} AND protocol = 'sflow5'
            GROUP BY exporter, agent
        )
        WHERE samples >= {LEAST_RECORDS} AND seen = 0 AND (named > 0 OR toString(agent) IN ('::', '::1')
            OR match(toString(agent), '^::ffff:(0|127)[.]'))""",  # noqa: S608 - nothing from outside
        "Its agent address {agent} is that of no hypervisor that the inventory knows: of {samples} samples none is "
        "seen as sent or received by a VM here, so there is no traffic, loss or utilisation of its VMs.",
        (
            "# one of the addresses that the inventory's source lists as `exporters`; here that of the hypervisor:",
            "ovs-vsctl set sFlow br-int 'agent=\"192.0.2.11\"'",
        ),
    ),
    Check(
        "exporter_unknown",
        f"""
        SELECT exporter, agent, first AS domain, protocol, records
        FROM (
            SELECT exporter, agent, protocol, min(domain) AS first, count() AS records,
                countIf(sighting IN ('source', 'destination', 'both')) AS seen,
                countIf(src_vm != '' AND dst_vm != '') AS named, countIf(sighting = 'unknown') AS unplaced,
                countIf(in_if_name != '' AND in_if_name IN (
                    SELECT port_name FROM inventory FINAL WHERE vm != '' AND open = 1)) AS ports
            {_FLOWS} AND protocol != 'sflow5'
            GROUP BY exporter, agent, protocol
        )
        WHERE seen = 0 AND named >= {LEAST_RECORDS} AND (ports > 0 OR unplaced > 0)""",  # noqa: S608 - nothing from outside
        "Its address {exporter} is that of no hypervisor that the inventory knows: of {records} records none is seen "
        "as sent or received by a VM here, so its pairs have no traffic, loss or latency. A router is rightly unknown.",
        (
            "# in the settings of vmflow, at the source of the inventory that reads that hypervisor:",
            'exporters = ["{exporter}"]',
        ),
    ),
    Check(
        "two_bridges",
        f"""
        SELECT exporter, agent, min(bridge) AS domain, 'sflow5' AS protocol, count() AS bridges,
            arrayStringConcat(arraySort(groupArray(toString(bridge))), ', ') AS agents
        FROM (
            SELECT exporter, agent, domain AS bridge, countIf(sighting IN ('source', 'destination', 'both')) AS own
            {_FLOWS} AND protocol = 'sflow5'
            GROUP BY exporter, agent, bridge
            HAVING count() >= {LEAST_RECORDS}
        )
        GROUP BY exporter, agent
        HAVING bridges > 1 AND min(own) = 0""",  # noqa: S608 - nothing from outside
        "It samples at {bridges} bridges (sub-agents {agents}), at one of them nothing that a VM of its own sent or "
        "got: packets that pass from one to the other are in table `flows` twice. Sums by `sighting` are right, others "
        "are not.",
        (
            "# which is not needed, here br-ex:",
            "ovs-vsctl --columns=name,sflow list Bridge",
            "ovs-vsctl clear Bridge br-ex sflow",
        ),
    ),
    Check(
        "two_ports",
        f"""
        SELECT {_KEY}, max(together) AS ports
        FROM (
            SELECT {_KEY}, uniqExact(source_port) AS together
            {_EXPORTERS} AND records > 0 AND protocol != 'sflow5'
            GROUP BY {_KEY}, time
        )
        WHERE together > 1
        GROUP BY {_KEY}
        HAVING count() >= {LEAST_INTERVALS}""",  # noqa: S608 - nothing from outside
        "Its records come from {ports} ports at a time under one observation domain: two bridges, one bridge with two "
        "targets that lead here, or several exporters behind one address. What two of them report is counted twice.",
        (
            "# each bridge has a domain of its own, and one target that leads here:",
            "ovs-vsctl --columns=_uuid,targets,obs_domain_id list IPFIX",
            *_created_again("sampling=64 other_config:enable-output-sampling=true")[1:],
        ),
    ),
    Check(
        "arrivals_unseen",
        f"""
        SELECT exporter, agent, domain, protocol, host, packets,
            if(network = '', '', concat(' in network ''', network, '''')) AS where_sent
        FROM (
            SELECT host, network, protocol, sum(packets) AS packets
            FROM (
                SELECT dst_host AS host, network, protocol, {_PROOF} AS pair, count() AS packets
                {_FLOWS} AND protocol IN ('sflow5', 'netflow5') AND sighting = 'source'
                    AND dst_host NOT IN ('', src_host)
                GROUP BY host, network, protocol, pair
                HAVING packets >= {LEAST_RECORDS} AND (host, network, pair) NOT IN (
                    SELECT DISTINCT dst_host, network, {_PROOF} {_FLOWS} AND sighting IN ('destination', 'both'))
            )
            GROUP BY host, network, protocol
        ) AS sent
        INNER JOIN (
            SELECT {_KEY}, src_host AS host
            {_FLOWS} AND protocol IN ('sflow5', 'netflow5') AND sighting IN ('source', 'both')
            GROUP BY {_KEY}, host
        ) AS here USING (host, protocol)""",  # noqa: S608 - nothing from outside
        "{packets} records show packets sent to its VMs{where_sent}, and none was seen to arrive: over a patch port "
        "from an uplink bridge Open vSwitch reports at the uplink bridge alone. Or all of them are lost.",
        (
            "# report the uplink bridge, too (`ovs-vsctl list-br` shows it, here br-ex), with the settings of br-int:",
            'ovs-vsctl set Bridge br-ex sflow="$(ovs-vsctl get Bridge br-int sflow)"',
        ),
    ),
    Check(
        "templates_missing",
        f"""
        SELECT {_KEY}, sum(problems['no_template']) AS sets
        {_EXPORTERS}
        GROUP BY {_KEY}
        HAVING sets > 0""",
        "{sets} sets of records could not be read, since their template had not come.",
        (
            "# it sends them again when its IPFIX is made again:",
            *_created_again("sampling=64"),
            "# flow-based IPFIX before 3.2, in the settings of vmflow:",
            "[decode]",
            "share_templates_between_domains = true",
        ),
    ),
    Check(
        "speed_unknown",
        f"""
        SELECT exporter, agent, domain, 'sflow5' AS protocol, uniq(if_index) AS interfaces,
            arrayStringConcat(arraySlice(arraySort(groupUniqArray(100)(if_name)), 1, 5), ', ') AS some
        {_COUNTERS} AND if_speed = {FALLBACK_SPEED}
        GROUP BY {_KEY}""",
        "It states 100 Mbit/s for {interfaces} interfaces ({some}), as Open vSwitch does where it knows no speed: this "
        "is not used for utilisation.",
        (
            "# what it states cannot be set; a limit that the port is given is used instead, here 10 Gbit/s in kbit/s:",
            "ovs-vsctl set Interface vnet1 ingress_policing_rate=10000000 ingress_policing_burst=1000000",
        ),
    ),
    Check(
        "speed_wrapped",
        f"""
        SELECT exporter, agent, domain, 'sflow5' AS protocol, uniq(if_index) AS interfaces,
            arrayStringConcat(arraySlice(arraySort(groupUniqArray(100)(if_name)), 1, 5), ', ') AS some
        {_COUNTERS} AND if_speed IN {WRAPPED_SPEEDS}
        GROUP BY {_KEY}""",
        "It states a speed cut to 32 bits for {interfaces} interfaces ({some}), as Open vSwitch does since 3.2: this "
        "is not used for utilisation.",
        (
            "# what it states cannot be set; the true speed is here, where the inventory's source `ovsdb` reads it:",
            "ovs-vsctl get Interface vnet1 link_speed",
        ),
    ),
    Check(
        "header_cut",
        f"""
        SELECT {_KEY}, countIf(src_port = 0 AND dst_port = 0) AS cut, count() AS samples,
            countIf(src_port = 0 AND dst_port = 0 AND tunnel != 'none') AS tunnelled
        {_FLOWS} AND protocol = 'sflow5' AND ip_protocol IN (6, 17, 132) AND fragment = 0
        GROUP BY {_KEY}
        HAVING cut * 100 >= samples""",
        "{cut} of {samples} samples of TCP, UDP and SCTP end before the ports ({tunnelled} of them inside of a "
        "tunnel): the sampled header is too short.",
        ("ovs-vsctl set sFlow br-int header=256",),
    ),
    Check(
        "templates_full",
        f"""
        SELECT {_KEY}, sum(problems['template_limit']) AS displaced, max(templates) AS known
        {_EXPORTERS}
        GROUP BY {_KEY}
        HAVING displaced > 0""",
        "{displaced} of its templates had to go for want of room ({known} are known): data that needs them is held, "
        "then lost.",
        (
            "# if these are not exporters of yours, name those that are, in the settings of vmflow:",
            "[decode]",
            'allow = ["192.0.2.0/24"]',
        ),
    ),
    Check(
        "sequence_units",
        f"""
        SELECT {_KEY}, sum(problems['sequence_units']) AS odd, sum(datagrams) AS sent
        {_EXPORTERS}
        GROUP BY {_KEY}
        HAVING odd * 2 > sent""",
        "Its sequence numbers count other units than {protocol} has: loss on its way here is not known.",
        (
            "# nothing to set: report it to its vendor (RFC 3954 section 5.1, RFC 7011 section 3.1), with a capture:",
            "tcpdump -ni any -c 1000 -w sequence.pcap udp and host {exporter}",
        ),
    ),
    Check(
        "clock_wrong",
        f"""
        SELECT {_KEY}, round(quantile(0.5)(clock_skew_us) / 1e6, 1) AS skew
        {_EXPORTERS} AND clock_skew_us IS NOT NULL
        GROUP BY {_KEY}
        HAVING abs(skew) > {SKEW_SECONDS}""",
        "Its clock differs from ours by {skew:+.1f} s: its flows fall into the wrong windows.",
        ("# on the exporter (or here, if all exporters differ alike):", "chronyc makestep"),
    ),
    Check(
        "restarted",
        f"""
        SELECT {_KEY}, sum(restarts) AS times
        {_EXPORTERS}
        GROUP BY {_KEY}
        HAVING times > 0""",
        "It began again {times} times: after a restart, or whenever one of its settings is changed.",
        (
            "# this ends by itself a while after the last time; if it does not, see what sets it again and again:",
            "ovs-vsctl list sFlow",
            "ovs-vsctl list IPFIX",
        ),
    ),
    Check(
        "export_lost",
        f"""
        SELECT {_KEY}, sum(export_lost) AS lost,
            lost + if(protocol IN ('sflow5', 'netflow9'), sum(datagrams), sum(records)) AS sent,
            (SELECT sum(kernel_drops) FROM exporters WHERE exporter = '::'
                AND time >= fromUnixTimestamp64Micro({{since}}) AND time < fromUnixTimestamp64Micro({{until}})) AS ours
        {_EXPORTERS}
        GROUP BY {_KEY}
        HAVING lost * 1000 > sent""",  # noqa: S608 - nothing from outside
        "{lost} of {sent} {unit} did not arrive; the sockets of this collector dropped {ours} datagrams of all "
        "exporters.",
        (
            "# if it was this collector, a larger receive buffer (deploy/sysctl.d/90-vmflow.conf); else fewer records:",
            "ovs-vsctl set sFlow br-int sampling=256",
            *_created_again("sampling=256 other_config:enable-output-sampling=true"),
        ),
    ),
    Check(
        "samples_lost",
        f"""
        SELECT {_KEY}, sum(samples_lost + agent_drops) AS lost, sum(datapath_lost) AS upcalls,
            sum(records) AS samples
        {_EXPORTERS} AND protocol = 'sflow5'
        GROUP BY {_KEY}
        HAVING (lost + upcalls) * 1000 > samples + lost""",
        "{lost} samples and {upcalls} packets on their way to user space were lost beside {samples} samples that "
        "came: it samples more than it can handle, and its estimates are too low.",
        ("ovs-vsctl set sFlow br-int sampling=256",),
    ),
    Check(
        "counters_differ",
        """
        SELECT exporter, agent, domain, 'sflow5' AS protocol,
            replaceAll(any(exporter_verdict), '_', ' ') AS verdict,
            sum(bytes_counted) AS counted, sum(bytes_estimated) AS estimated
        FROM reconciliation
        GROUP BY exporter, agent, domain
        HAVING verdict IN ('too few', 'too many')""",
        "Its samples stand for {estimated:.0f} octets, its interface counters say {counted}: {verdict} for chance.",
        (
            "# too few: samples get lost, or not all bridges export; too many: a bridge exports twice. Its exporters:",
            "ovs-vsctl --columns=name,sflow list Bridge",
        ),
    ),
)


FLOW_SECONDS = 300
"""Longest period of `flows` that is read: the table of many rows."""


LEAST_SECONDS = 60
"""Shortest time that the service looks back: six rows of `exporters`, by its default interval."""

FINDINGS = 1000
"""Findings of one check, at most."""

BOUNDS = Bounds(seconds=20, rows=FINDINGS)
"""Of one check: what a page may cost on a busy store."""

_log = get_log("analyze")

Stream = tuple[bytes, bytes, int, str]
"""Exporter and agent (16 octets each, IPv4 mapped), domain, protocol."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one stream."""

    code: str
    exporter: str
    """Sender address as people write it."""
    agent: str
    """sFlow agent, `::` for other protocols."""
    domain: int
    protocol: str
    sentence: str
    repair: tuple[str, ...]
    """Lines to type or to set; what is not a command begins with #."""
    stream: Stream


def examine(
    client: Client, until_us: int, seconds: int, checks: Iterable[Check] = CHECKS, flow_seconds: int = FLOW_SECONDS
) -> list[Finding]:
    """Run all checks over the `seconds` before `until_us` (µs since 1970).

    Of `flows` only the last `flow_seconds` are read; `reconciliation` is always about the last hour.  Blocks.  Raises
    the driver's errors.
    """
    since_us = until_us - seconds * SECOND_US
    recent_us = max(since_us, until_us - flow_seconds * SECOND_US)
    found = []
    for check in checks:
        sql = check.sql.format(since=since_us, recent=recent_us, until=until_us)
        rows = read_rows(client, f"{sql} ORDER BY exporter, agent, domain LIMIT {FINDINGS}", {}, BOUNDS)
        found += [_finding(check, row) for row in rows]
    return sorted(found, key=lambda one: (one.exporter, one.agent, one.domain, one.protocol))


def _finding(check: Check, row: Mapping[str, Any]) -> Finding:
    exporter, agent, protocol = shown(row["exporter"]), shown(row["agent"]), str(row["protocol"])
    unit = "datagrams" if protocol in ("sflow5", "netflow9") else "records"
    values = {**row, "exporter": exporter, "agent": agent, "unit": unit}
    return Finding(
        check.code,
        exporter,
        agent,
        int(row["domain"]),
        protocol,
        check.sentence.format(**values),
        tuple(line.replace("{exporter}", exporter).replace("{protocol}", protocol) for line in check.repair),
        (packed(row["exporter"]), packed(row["agent"]), int(row["domain"]), protocol),
    )


def shown(address: Any) -> str:
    """Return an address as people write it; IPv4 without the mapping."""
    parsed = IPv6Address(str(address))
    return str(parsed.ipv4_mapped or parsed)


def packed(address: Any) -> bytes:
    """Return an address as the tables hold it."""
    return IPv6Address(str(address)).packed


class Doctor:
    """The periodic check of all exporters.  A component.

    `connect` opens a client with the service's database selected; it blocks, and is called through `call`, whose worker
    should not be shared with anything that must be quick.  `clock_us` is the system clock, µs since 1970.
    """

    def __init__(
        self,
        settings: AnalyzeSettings,
        metrics: Metrics,
        call: Call,
        connect: Callable[[], Client],
        *,
        clock_us: Clock,
    ) -> None:
        self._settings = settings
        self._reader = Reader(call, connect, BOUNDS)
        self._clock_us = clock_us
        self._codes: dict[Stream, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._found = metrics.gauge("exporter_findings", "Exporter streams that have this finding.", ("code",))
        for check in CHECKS:
            self._found.labels(check.code)
        self._looks = metrics.counter("doctor_looks_total", "Looks at all exporters.", ("result",))
        for result in ("ok", "failed"):
            self._looks.labels(result)

    def codes(self, exporter: bytes, agent: bytes, domain: int, protocol: str) -> str:
        """Return the codes of what the last check found in a stream, joined by commas.  May be called on any thread."""
        return self._codes.get((exporter, agent, domain, protocol), "")

    async def __aenter__(self) -> Self:
        if self._settings.doctor_enabled:
            self._task = asyncio.create_task(self._run(), name="doctor")
        return self

    async def __aexit__(self, *error: object) -> None:
        task, self._task = self._task, None
        await cancel(task)
        await self._reader.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.doctor_seconds)
            await self.look()

    async def look(self) -> None:
        """Check now.  If the store cannot be queried, the former findings stay, and this is counted."""
        seconds = round(max(LEAST_SECONDS, self._settings.doctor_seconds))
        check = partial(examine, until_us=self._clock_us(), seconds=seconds, flow_seconds=seconds)
        try:
            findings = await self._reader.ask(check)
        except Exception as error:  # noqa: BLE001 - whatever the store says, the service goes on
            self._looks.labels("failed").inc()
            _log.sampled("exporters not looked at", key=type(error).__name__, error=first_line(error))
            return
        codes: dict[Stream, list[str]] = {}
        for finding in findings:
            codes.setdefault(finding.stream, []).append(finding.code)
        # Replaced as a whole, never modified: other threads read it.
        self._codes = {stream: ",".join(found) for stream, found in codes.items()}
        for one in CHECKS:
            self._found.labels(one.code).set(sum(one.code in found for found in codes.values()))
        self._looks.labels("ok").inc()
