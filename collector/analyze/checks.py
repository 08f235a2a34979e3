"""What the exporter doctor looks for: one query each, one sentence, and the lines that repair it.

A query gives `exporter`, `agent`, `domain`, `protocol` and the values that its sentence names.  Its holes are the ends
of the time that is looked at, µs since 1970: `{since}` and `{until}` for tables of few rows, `{recent}` and `{until}`
for `flows`.  The commands are those of deploy/ovs.md, and tried against a real Open vSwitch by the tests: `br-int`
stands for the bridge that exports.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_RECORDS = 20
"""Records from which a statement about all records of a stream is made."""

SKEW_SECONDS = 3
"""Open vSwitch states the time rounded up to a second, and records wait a second or two in between (facts 4.2)."""

TEMPLATE_SECONDS = 60
"""Longest interval that is recommended: so long a new collector may be blind."""

POLL_SECONDS = 10
"""The age of templates is noted once per interval of `exporters`, 10 s."""

FALLBACK_SPEED = 100_000_000
"""ifSpeed of a port whose speed Open vSwitch does not know, such as a tap (facts 1.8)."""

WRAPPED_SPEEDS = (1_410_065_408, 3_525_163_520, 1_345_294_336, 1_215_752_192)
"""10, 25, 40 and 100 Gbit/s cut to 32 bits by Open vSwitch since 3.2 (facts 1.8)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that can be wrong with an exporter."""

    code: str
    sql: str
    sentence: str
    """Its holes are columns of the query."""
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
_OVS = "protocol = 'ipfix' AND in_if_name != ''"
"""Open vSwitch since 2.9 puts the name of the interface into each IPFIX record where it knows one (facts 4.4)."""

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
            "[[pipeline.exporters]]",
            'network = "{exporter}"',
            "sampling_rate = N",
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
        ("ovs-vsctl set IPFIX br-int sampling=1",),
    ),
    Check(
        "sampled_twice",
        f"""
        SELECT {_KEY}, countIf(direction = 'ingress') AS coming, countIf(direction = 'egress') AS going
        {_FLOWS} AND {_OVS}
        GROUP BY {_KEY}
        HAVING coming > 0 AND going > 0""",
        "It samples packets where they come in ({coming} records) and again where they go out ({going}): sums over all "
        "of its records are double.",
        (
            "# Open vSwitch 3.2 and later:",
            "ovs-vsctl set IPFIX br-int other_config:enable-output-sampling=false",
            "# Open vSwitch 2.4 to 3.1, where the key works the wrong way round:",
            "ovs-vsctl set IPFIX br-int other_config:enable-output-sampling=true",
        ),
    ),
    Check(
        "templates_rare",
        f"""
        SELECT {_KEY}, round(max(template_age_us) / 1e6) AS age
        {_EXPORTERS} AND records > 0
        GROUP BY {_KEY}
        HAVING age > {TEMPLATE_SECONDS + POLL_SECONDS}""",
        "It sent no template for {age:.0f} s: a collector that starts anew, or loses the one datagram, cannot read its "
        "records for so long.",
        ("# Open vSwitch 3.2 and later:", "ovs-vsctl set IPFIX br-int template_interval=60"),
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
            "# Open vSwitch 3.2 and later:",
            "ovs-vsctl set IPFIX br-int template_interval=60",
            "# flow-based IPFIX before 3.2, in the settings of vmflow:",
            "[pipeline]",
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
        "It began anew {times} times: after a restart, or whenever one of its settings is changed.",
        (
            "# what it is set to now; see that nothing sets it again and again:",
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
            "ovs-vsctl set IPFIX br-int sampling=256",
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
            sum(octets_counted) AS counted, sum(octets_estimated) AS estimated
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
