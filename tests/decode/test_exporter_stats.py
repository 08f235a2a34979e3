"""What the pipeline writes into table `exporters` for the doctor, and of it."""

from __future__ import annotations

from collector.decode.exporter_stats import OwnLoss, StreamReporter
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from tests.decoders.support import address, payloads, rows

SECOND_US = 1_000_000
HOSTS = {address("192.0.2.11"), address("192.0.2.12")}


def findings(exporter: bytes, agent: bytes, domain: int, protocol: str) -> str:
    """A doctor that knows one stream."""
    known = (address("192.0.2.12"), bytes(16), 121, "ipfix")
    return "restarted,clock_wrong" if (exporter, agent, domain, protocol) == known else ""


def test_age_of_templates_and_findings_by_stream() -> None:
    decoder = Decoder()
    reporter = StreamReporter(decoder.shared.sessions, decoder.sets.templates.table, findings)
    assert reporter.report(1, OwnLoss()) is None
    exports = payloads("ovs_ipfix_input_only")
    decoder.decode(Datagrams.of(exports))
    # Templates are sent once, in the first datagrams: those that begin with set 2 (RFC 7011 section 3.3.2).
    sent = {
        host: max(time for octets, sender, _, time in exports if address(sender) == host and octets[16:18] == b"\0\2")
        for host in HOSTS
    }
    now = exports[-1][3] + 100 * SECOND_US

    report = reporter.report(now, OwnLoss())

    assert report is not None
    found = {(row["exporter"], row["domain"]): row for row in rows([report])}
    for host, domain in ((address("192.0.2.11"), 111), (address("192.0.2.12"), 121)):
        assert found[host, domain]["template_age_us"] == now - sent[host]
    assert found[address("192.0.2.12"), 121]["findings"] == "restarted,clock_wrong"
    assert found[address("192.0.2.11"), 111]["findings"] == ""
    assert found[bytes(16), 0]["template_age_us"] is None


def test_protocols_without_templates_have_no_age() -> None:
    decoder = Decoder()
    reporter = StreamReporter(decoder.shared.sessions, decoder.sets.templates.table)
    reporter.report(1, OwnLoss())
    exports = payloads("ovs_netflow5")
    decoder.decode(Datagrams.of(exports))

    report = reporter.report(exports[-1][3], OwnLoss())

    assert report is not None
    assert {row["template_age_us"] for row in rows([report])} == {None}
