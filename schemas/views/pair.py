"""The view `pair_metrics`: bandwidth, loss, connections, errors, drops of one VM pair, one direction, per window.

`pair_traffic` has those of its columns that follow from the pair's own sums, for a fraction of the work.

**What is counted.**  A packet is seen at its source, at its destination, and in between.  Volume is what was seen at
the source (`source` and `both`), or what was seen at the destination where no exporter sees the source.

**Loss.**  Sent is what was seen at the source only (`source`), received what was seen at the destination only
(`destination`).  What one switch saw at both ends (`both`) was seen once: it says nothing about loss and, being part of
both sums, would only hide the loss of the rest.

**Total loss.**  "Nothing received" counts only if deliveries would have been seen.  Two things must hold: the receiving
VM was itself seen sending in this window, so its port was alive; and a stream that reported anything in this window had
seen deliveries of this network on this hypervisor within the last day, and has not restarted since.  The same is
required where less than a tenth of what was sent is seen to arrive: when Open vSwitch sets up an export again, it also
samples the output until it is configured not to.  Other streams, protocols or networks prove nothing: Open vSwitch
samples sFlow where a packet enters, so what comes through a patch port is not seen at the bridge of the VMs.  Where the
network has no name, only deliveries of the same pair are proof.  Without proof, loss is unknown.

**Not watched.**  Table `gaps` has the times in which a stream, or the service, did not report all packets.  If they
cover more than `MOST_MISSED` of a window at either end, bandwidth and loss are not stated.  If they cover less, the
figures are scaled up, and the interval allows for no traffic in the gap, or twice as much.  Loss is not stated where a
stream restarted in the window, however short the gap: what it reports may have changed.

**Smear.**  What records that cross an end of the window may have put on the wrong side (see `pair_definition`): the sum
over all of them, or 1.96 standard deviations where they are many.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.pair_definition import EDGE_SECONDS
from schemas.rollups import CONNECTIONS, LEVELS, PAIR_HASH, VANTAGE_OF
from schemas.views.common import (
    LEAST_SAMPLES_BOTH,
    LEAST_SAMPLES_SIDE,
    MOST_MISSED,
    Z,
    bound,
    counted_pairs,
    effective_samples,
    log_half_width,
    missed,
    missed_by_all,
    refused,
    smear,
    stray,
)

KEYS = "time, pair, src_vm, dst_vm"
"""The column `pair` identifies a pair; the names are there so that a condition on a VM reaches the rollup."""

OTHERS = ("src_vm_uuid", "dst_vm_uuid", "network")
"""Columns that are the same in all rows of a pair."""

SEEING_HOURS = 25
"""How far back a stream must have reported deliveries: today and the hour before."""

RENEWED_HOURS = 3
"""How far back minutes are read where a stream restarted: until it has reported a whole hour."""

SEEN_SHARE = 0.1
"""Share of what was sent in an hour that a stream must have reported as delivered.  Less may be stray: when Open
vSwitch sets up an export again, it also samples the output until it is configured not to."""

NONE_SEEN = 3.69
"""Upper end of the 95 % interval of a Poisson count when nothing was seen: −ln 0.025."""

LEAST_EXPECTED = 20
"""Expected samples above which seeing none is total loss: by chance, none is seen once in 5 · 10⁸."""

DELAY_CHANGE_SECONDS = 0.1
"""How much the delay between both ends, including the difference of their clocks, may change within a window."""

_SIDES = {"sent": "source", "received": "destination", "within": "both"}

_SPLIT = (
    "records", "packets", "packets_variance", "bytes", "bytes_variance", "frame_bytes", "samples", "first_packets",
    "last_packets", "first_smear", "last_smear", "first_smear_squares", "last_smear_squares", "rate_unstated",
    "connections_opened", "connections_reset", "tcp_flags_missing",
)  # fmt: skip


def _by_side(aggregate: str, measure: str, indent: str) -> str:
    """Return a measure by where it was seen: `sent_x`, `received_x`, `within_x`."""
    return f",\n{indent}".join(
        f"{aggregate}If({measure}, sighting = '{sighting}') AS {side}_{measure}" for side, sighting in _SIDES.items()
    )


def once(measure: str, aggregate: str = "sum") -> str:
    """Return a measure that counts every packet once: as seen at the source, else as seen at the destination."""
    both = f"greatest(sent_{measure}, within_{measure})" if aggregate == "max" else f"sent_{measure} + within_{measure}"
    return f"if(sent_packets + within_packets > 0, {both}, received_{measure})"


def _sums(level: str) -> str:
    """Return a query with one row per pair and window, with what each side saw."""
    split = ",\n        ".join(_by_side("sum", measure, " " * 8) for measure in _SPLIT)
    return f"""
    SELECT
        {KEYS},
        {", ".join(f"any({name}) AS {name}" for name in OTHERS)},
        max(src_host) AS src_host,
        max(dst_host) AS dst_host,
        {VANTAGE_OF.format(end="src")} AS src_vantage,
        {VANTAGE_OF.format(end="dst")} AS dst_vantage,
        toUInt64(0) AS all_vantage,
        {_PROOF} AS proof,
        {split},
        {_by_side("max", "sampling_rate_max", " " * 8)},
        sumIf(packets, sighting NOT IN ('source', 'destination', 'both')) AS elsewhere_packets,
        {CONNECTIONS.replace("(", "Merge(")}(connections) AS connections,
        max(protocol = 'ipfix') AS by_ipfix,
        sum(drop_hint_packets) AS drop_hint_packets,
        sum(drops) AS drops
    FROM {counted_pairs(level)}
    GROUP BY {KEYS}"""


def _answers(level: str) -> str:
    """Return a query of what the other direction says about the connections that this one requested."""
    measures = ("packets", "connections_accepted", "tcp_flags_missing")
    split = ",\n            ".join(_by_side("sum", measure, " " * 12) for measure in measures)
    return f"""
    SELECT
        time AS answer_time,
        src_vm AS answering_vm,
        dst_vm AS asking_vm,
        answered_pair,
        {once("packets")} AS answer_packets,
        {once("connections_accepted")} AS accepted,
        {once("tcp_flags_missing")} AS answers_without_flags,
        {once("sampling_rate_max", "max")} AS answer_rate
    FROM (
        SELECT
            time, src_vm, dst_vm,
            {PAIR_HASH.format(src="dst", dst="src")} AS answered_pair,
            {split},
            {_by_side("max", "sampling_rate_max", " " * 12)}
        FROM {counted_pairs(level)}
        GROUP BY time, answered_pair, src_vm, dst_vm
    )"""


_STREAM = "protocol, reporter, domain"

_PROOF = "if(network != '', 0, pair)"
"""The pair whose deliveries are proof: any pair of a network that has a name, else this one."""


_RENEWED = """
            SELECT reporter, domain, protocol, max(ends) AS renewed
            FROM gaps
            WHERE reason IN ('started', 'reopened', 'restarted') AND ends > now() - INTERVAL {hours} HOUR
            GROUP BY reporter, domain, protocol"""
"""When streams restarted: what they report may have changed."""


def _deliveries(table: str, hours: int, begin_of: str, where: str = "") -> str:
    """Return a query of deliveries that streams reported by hypervisor and network in whole hours or minutes since
    they started."""
    return f"""
        SELECT DISTINCT host, named, proof, {_STREAM}, renewed
        FROM (
            SELECT *, max(sent) OVER (PARTITION BY time, host, named, proof) AS most_sent
            FROM (
                SELECT
                    time, dst_host AS host, network AS named, {_PROOF} AS proof, {_STREAM},
                    sumIf(packets, sighting = 'destination') AS delivered,
                    sumIf(packets, sighting = 'source') AS sent
                FROM {table}
                WHERE time > now() - INTERVAL {hours} HOUR AND sighting IN ('source', 'destination')
                    AND dst_host != ''
                GROUP BY time, host, named, proof, {_STREAM}
            )
        ) AS reports
        LEFT JOIN ({_RENEWED.format(hours=SEEING_HOURS)}
        ) AS renewals USING ({_STREAM})
        WHERE delivered > 0 AND delivered >= {SEEN_SHARE} * most_sent
            AND (toUnixTimestamp64Micro(renewed) = 0 OR time > {begin_of}(renewed)){where}"""


def _seeing(level: str) -> str:
    """Return a query of hypervisors, networks and pairs whose deliveries a live and trusted stream reports in a window.

    A stream that restarted is judged by what it reported since: by minutes, until it has reported a whole hour.
    """
    hours = _deliveries("pair_1h", SEEING_HOURS, "toStartOfHour")
    minutes = _deliveries(
        "pair_1m", RENEWED_HOURS, "toStartOfMinute", f" AND renewed > now() - INTERVAL {RENEWED_HOURS} HOUR"
    )
    return f"""
    SELECT DISTINCT
        time AS seen_time, proofs.host AS seen_host, proofs.named AS seen_network, proofs.proof AS seen_pair, 1 AS seen
    FROM (SELECT DISTINCT time, {_STREAM} FROM {counted_pairs(level)} WHERE packets > 0 AND reporter != toIPv6('::')
    ) AS alive
    GLOBAL INNER JOIN ({hours}
        UNION ALL{minutes}
    ) AS proofs USING ({_STREAM})
    GLOBAL LEFT ANTI JOIN ({refused(level)}
    ) AS refused ON alive.time = refused_time AND cityHash64(proofs.host) = refused_vantage
        AND CAST(alive.protocol, 'Int8') = refused_protocol
    WHERE toDateTime64(time, 6) >= proofs.renewed"""


def _hearing(level: str) -> str:
    """Return a query of hypervisors and networks with deliveries in a window: an answer would have been seen there."""
    return f"""
    SELECT DISTINCT time AS heard_time, dst_host AS heard_host, network AS heard_network, 1 AS heard
    FROM {counted_pairs(level)}
    WHERE sighting = 'destination' AND packets > 0 AND dst_host != '' AND network != ''"""


def _watched(level: str) -> str:
    """Return a query of VMs seen sending, and of how many packets one sample at their port represents."""
    return f"""
    SELECT
        time,
        src_vm AS dst_vm,
        src_vm_uuid AS dst_vm_uuid,
        1 AS watched,
        1 + sum(packets_variance) / sum(packets) AS watched_weight,
        sum(rate_unstated) = 0 AND max(sampling_rate_max) = 1 AS watched_exactly
    FROM {counted_pairs(level)}
    WHERE sighting IN ('source', 'both') AND packets > 0
    GROUP BY time, src_vm, src_vm_uuid"""


def _latency(level: str) -> str:
    """Return a query of each pair's best reading: one way before round trips where its uncertainty is below its value,
    then that of least uncertainty.

    Probes between hypervisors have no VM at an end: they are no reading of traffic without a name.
    """
    return f"""
    SELECT
        {KEYS},
        argMin(tuple(method, trip, latency, spread, jitter),
            tuple(trip = 'round_trip' OR spread >= abs(latency), spread)) AS best,
        sum(readings) AS latency_samples
    FROM (
        SELECT
            toDateTime(toStartOfInterval(time, toIntervalSecond({LEVELS[level]})), 'UTC') AS time,
            {PAIR_HASH.format(src="src", dst="dst")} AS pair,
            src_vm, dst_vm, method, trip,
            sum(samples) AS readings,
            toInt64(round(sum(latency_us * samples) / readings)) AS latency,
            max(spread_us) AS spread,
            sumIf(samples, jitter_us IS NOT NULL) AS jitter_readings,
            if(jitter_readings > 0, toUInt64(sum(jitter_us * samples) / greatest(jitter_readings, 1)), NULL) AS jitter
        FROM latency
        WHERE src_vm != '' AND dst_vm != ''
        GROUP BY {KEYS}, method, trip
    )
    GROUP BY {KEYS}"""


def _smear(side: str) -> str:
    """Return how much of what one side saw may be on the wrong side of the window's ends, in packets."""
    return smear(f"{side}_first_smear + {side}_last_smear", f"{side}_first_smear_squares + {side}_last_smear_squares")


_LEAST_SMEAR = 0.01
"""Share of the packets that may be on the wrong side before counts are not called exact."""

_MOST_SMEAR = 4
"""The same share above which nothing is stated: steady traffic in records as long as the window reaches up to this
much, since each side has two ends.  With longer records, use longer windows."""

_EXACT = (
    "sent_rate_unstated + received_rate_unstated = 0"
    " AND greatest(sent_sampling_rate_max, received_sampling_rate_max) = 1"
)


def _traffic(level: str) -> str:
    """Return a query of the sums and what of them needs nothing else: volume, connections, how much was watched."""
    seconds = LEVELS[level]
    return f"""
    SELECT
        *,
        multiIf(sent_packets + within_packets > 0, 'source', received_packets > 0, 'destination', 'nowhere')
            AS counted_at,
        counted_at != 'nowhere' AS counted,
        {once("packets")} AS all_packets,
        {once("packets_variance")} AS all_packets_variance,
        {once("bytes")} AS all_bytes,
        {once("bytes_variance")} AS all_bytes_variance,
        {once("frame_bytes")} AS all_frame_bytes,
        (sent_packets + received_packets + within_packets) / (sent_records + received_records + within_records)
            AS packets_per_record,
        {once("first_smear")} + {once("last_smear")} AS all_smears,
        {once("first_smear_squares")} + {once("last_smear_squares")} AS all_smear_squares,
        {once("records")} AS all_records,
        {once("first_packets")} AS all_first_packets,
        {once("last_packets")} AS all_last_packets,
        greatest({smear("all_smears", "all_smear_squares")}, {stray("all")}) AS all_smear,
        least({seconds}, greatest(src_missed, dst_missed) + all_missed) AS missed_seconds,
        src_restarted OR dst_restarted OR all_restarted AS restarted,
        least({seconds}, if(counted_at = 'source', src_missed, dst_missed) + all_missed) AS missed_there,
        counted AND missed_there <= {MOST_MISSED} * {seconds} AS whole,
        {once("samples")} AS all_samples,
        {once("rate_unstated")} AS all_rate_unstated,
        {once("sampling_rate_max", "max")} AS all_sampling_rate,
        {once("connections_opened")} AS opened,
        {once("connections_reset")} AS reset,
        whole AND {once("tcp_flags_missing")} = 0 AS flags_known,
        opened * (all_sampling_rate - 1) AS opened_variance
    FROM ({_sums(level)}
    ) AS sums{_missed(level)}"""


def _figures(level: str) -> str:
    """Return expressions that follow from the sums, before they become columns of the view."""
    seconds = LEVELS[level]
    sent = effective_samples("sent_packets", "sent_packets_variance")
    received = effective_samples("received_packets", "received_packets_variance")
    half = log_half_width("sent_packets", "sent_packets_variance", "received_packets", "received_packets_variance")
    return f"""
    SELECT
        *,
        {_smear("sent")} + {_smear("received")} AS both_smear,
        missed_seconds > {MOST_MISSED} * {seconds} OR src_renewed OR dst_renewed AS torn,
        {sent} AS sent_effective,
        {received} AS received_effective,
        sent_packets > 0 AND received_packets + within_packets = 0 AND watched AND seen
            AND dst_host != '' AND src_host != dst_host AS all_lost,
        received_packets < {SEEN_SHARE} * sent_packets AND NOT seen AS hardly_seen,
        {_EXACT} AND (NOT all_lost OR watched_exactly) AS counts_exact,
        multiIf(
            (all_lost OR sent_packets * received_packets > 0) AND (torn OR both_smear > {_MOST_SMEAR} * sent_packets),
                'insufficient',
            all_lost AND counts_exact, if(both_smear > {_LEAST_SMEAR} * sent_packets, 'spread', 'exact'),
            all_lost AND sent_effective >= {LEAST_SAMPLES_BOTH} AND sent_packets >= {LEAST_EXPECTED} * watched_weight,
                'measured',
            all_lost, 'insufficient',
            sent_packets = 0 OR received_packets = 0 OR hardly_seen, 'blind',
            counts_exact, if(both_smear > {_LEAST_SMEAR} * sent_packets, 'spread', 'exact'),
            sent_effective + received_effective >= {LEAST_SAMPLES_BOTH}
                AND least(sent_effective, received_effective) >= {LEAST_SAMPLES_SIDE}, 'measured',
            'insufficient') AS evidence,
        evidence IN ('exact', 'spread', 'measured') AS loss_known,
        received_packets / sent_packets AS arrived,
        {half} AS half_width,
        {bound("sent_packets", "sent_packets_variance", "-")} AS sent_low,
        multiIf(
            NOT all_lost, arrived * exp(half_width),
            counts_exact, 0,
            least(1, {NONE_SEEN} * watched_weight / sent_low)) AS most_arrived,
        -- By chance more samples may arrive than were sent, by more than the interval: the bound keeps its width.
        if(all_lost, 0, if(arrived > exp(half_width) AND NOT counts_exact, 1, arrived) * exp(-half_width))
            AS least_arrived,
        -- What is seen in the first or last second at one side may fall into the neighbour window at the other.  Steady
        -- traffic loses at one end of the window what it gains at the other, but for chance.  Where the delay changes,
        -- the first or last second holds less at one side than at the other; in the middle of a window, a change of the
        -- delay leaves no such trace.
        greatest(sent_first_packets, received_first_packets) AS first_second,
        greatest(sent_last_packets, received_last_packets) AS last_second,
        {Z} * sqrt(greatest(sent_sampling_rate_max, received_sampling_rate_max, 1) * (first_second + last_second))
            AS edge_noise,
        abs(last_second - first_second) AS edge_step,
        greatest(
            abs(sent_first_packets - received_first_packets) + abs(sent_last_packets - received_last_packets),
            {DELAY_CHANGE_SECONDS / EDGE_SECONDS} * greatest(first_second, last_second)) AS edge_shift,
        if(counts_exact, least(edge_step + edge_noise, greatest(first_second, last_second)),
            greatest(edge_step - edge_noise, 0)) / sent_packets AS edge_steady,
        -- What records smear, and what went unwatched, comes on top.
        if(counts_exact, least(edge_step + edge_noise + edge_shift, greatest(first_second, last_second))
            / sent_packets, edge_steady) + both_smear / sent_packets
            + 2 * missed_seconds / greatest({seconds} - missed_seconds, 1) AS edge,
        flags_known AND answers_without_flags = 0
            AND (answer_packets > 0 OR received_packets + within_packets > 0 OR heard) AS answers_known,
        if(answer_packets > 0, answer_rate, all_sampling_rate) AS answers_rate,
        -- One sample more than there were: that none was seen does not mean that there was none.
        (accepted + answers_rate) * (greatest(answers_rate, 1) - 1) AS accepted_variance,
        2 * opened * {EDGE_SECONDS} / {seconds} AS straddling,
        answers_known AND NOT torn AND opened > 0
            AND (all_sampling_rate = 1 OR opened / all_sampling_rate >= {LEAST_SAMPLES_BOTH // 2}) AS errors_known,
        greatest(0, opened - accepted) / opened AS failed_share,
        {Z} * sqrt(accepted_variance + straddling + opened_variance * pow(accepted / opened, 2)) / opened
            AS failed_half_width
    FROM ({_traffic(level)}
    ) AS sums
    LEFT JOIN ({_answers(level)}
    ) AS answers ON sums.time = answer_time AND sums.pair = answered_pair AND sums.src_vm = asking_vm
        AND sums.dst_vm = answering_vm
    LEFT JOIN ({_latency(level)}
    ) AS readings USING ({KEYS})
    LEFT JOIN ({_watched(level)}
    ) AS watchers USING (time, dst_vm, dst_vm_uuid)
    LEFT JOIN ({_seeing(level)}
    ) AS seeing ON sums.time = seen_time AND sums.dst_host = seen_host AND sums.network = seen_network
        AND sums.proof = seen_pair
    LEFT JOIN ({_hearing(level)}
    ) AS hearing ON sums.time = heard_time AND sums.src_host = heard_host
        AND sums.network = heard_network"""


def _missed(level: str) -> str:
    """Join what was missed at the source, at the destination, and everywhere."""
    return "".join(
        f"""
    LEFT JOIN (SELECT time AS {end}_time, vantage AS {end}_at, missed_seconds AS {end}_missed, renewed AS {end}_renewed,
            restarted AS {end}_restarted
        FROM ({of(level)}
    )) AS {end}_missing ON sums.time = {end}_time AND sums.{end}_vantage = {end}_at"""
        for end, of in (("src", missed), ("dst", missed), ("all", missed_by_all))
    )


def _columns(level: str) -> dict[str, str]:
    """Return the columns of `pair_metrics` by name, as expressions of what `_figures` has."""
    seconds = LEVELS[level]

    def interval(name: str, estimate: str, per_second: str) -> dict[str, str]:
        low = bound(f"all_{estimate}", f"all_{estimate}_variance", "-")
        high = bound(f"all_{estimate}", f"all_{estimate}_variance", "+")
        off = f"all_smear * all_{estimate} / all_packets"
        # Per second watched; at least as if nothing came in the other seconds, at most as if twice as much did.
        watched = f"({seconds} - missed_there)"
        ends = {
            "": f"all_{estimate} * {seconds} / {watched}",
            "_low": f"greatest(0, {low} - {off})",
            "_high": f"({high} + {off}) * ({seconds} + missed_there) / {watched}",
        }
        return {f"{name}{end}": f"if(whole, ({value}) * {per_second}, NULL)" for end, value in ends.items()}

    opened_low, opened_high = (bound("opened", "opened_variance", sign) for sign in "-+")
    return {
        **{name: name for name in ("time", "src_vm", "dst_vm", "src_host", "dst_host", "network")},
        **interval("bits_per_second", "bytes", f"8 / {seconds}"),
        **interval("packets_per_second", "packets", f"1 / {seconds}"),
        "loss_ratio": "if(loss_known, greatest(0, 1 - arrived), NULL)",
        "loss_low": "if(loss_known, greatest(0, 1 - most_arrived - edge), NULL)",
        "loss_high": "if(loss_known, least(1, greatest(0, 1 - least_arrived + edge)), NULL)",
        "loss_delay_allowance": "if(loss_known, edge - edge_steady, NULL)",
        "loss_evidence": "evidence",
        "latency_us": "if(latency_samples > 0, best.3, NULL)",
        "latency_spread_us": "if(latency_samples > 0, best.4, NULL)",
        "latency_method": "if(latency_samples > 0, toString(best.1), '')",
        "latency_trip": "if(latency_samples > 0, toString(best.2), '')",
        "jitter_us": "if(latency_samples > 0, best.5, NULL)",
        "latency_missing": "multiIf(latency_samples > 0, '', by_ipfix = 0, 'no_ipfix', "
        "all_sampling_rate > 1, 'sampled', all_rate_unstated > 0, 'rate_unstated', 'no_new_flow')",
        "connections": "connections",
        "connections_evidence": "if(whole AND all_sampling_rate = 1 AND all_rate_unstated = 0, 'exact', 'at least')",
        "new_connections_per_second": f"if(flags_known, opened / {seconds}, NULL)",
        "new_connections_per_second_low": f"if(flags_known, ({opened_low}) / {seconds}, NULL)",
        "new_connections_per_second_high": f"if(flags_known, ({opened_high}) / {seconds}, NULL)",
        "failed_connections": "if(errors_known, failed_share * opened, NULL)",
        "error_ratio": "if(errors_known, failed_share, NULL)",
        "error_low": "if(errors_known, greatest(0, failed_share - failed_half_width), NULL)",
        "error_high": "if(errors_known, least(1, failed_share + failed_half_width), NULL)",
        "resets": "if(flags_known, reset, NULL)",
        **{name: name for name in ("drops", "drop_hint_packets", "counted_at")},
        "watched_seconds": f"{seconds} - missed_seconds",
        "packets": "if(counted, all_packets, NULL)",
        "bytes": "if(counted, all_bytes, NULL)",
        "frame_bytes": "if(all_frame_bytes > 0, all_frame_bytes, NULL)",
        **{f"{side}_packets": f"{side}_packets" for side in ("sent", "received", "within", "elsewhere")},
        "packets_per_record": "if(counted, packets_per_record, NULL)",
        "samples": "all_samples",
        "sampling_rate": "all_sampling_rate",
        "rate_unstated": "all_rate_unstated",
        **{name: name for name in ("src_vm_uuid", "dst_vm_uuid", "pair")},
        "packets_variance": "if(counted, all_packets_variance, NULL)",
        "bytes_variance": "if(counted, all_bytes_variance, NULL)",
        **{f"{side}_packets_variance": f"{side}_packets_variance" for side in ("sent", "received")},
        "restarted": "restarted",
    }


_JOINED = ("loss_", "latency_", "jitter_", "failed_", "error_")
"""How the names of columns begin that need more than the sums of the pair."""


def _select(columns: Mapping[str, str], rows: str) -> str:
    chosen = ",\n    ".join(name if name == value else f"{value} AS {name}" for name, value in columns.items())
    return f"SELECT\n    {chosen}\nFROM ({rows}\n)"


def pair_metrics(level: str) -> str:
    """Return the query of the view for windows of this level."""
    return _select(_columns(level), _figures(level))


def pair_traffic(level: str) -> str:
    """Return the query of the view with those columns of `pair_metrics` that need no more than the pair's sums."""
    columns = {name: value for name, value in _columns(level).items() if not name.startswith(_JOINED)}
    return _select(columns, _traffic(level))
