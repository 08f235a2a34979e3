"""The one entry to decoding: a defect of ours costs one datagram, and rules hold for exporters."""

from __future__ import annotations

from ipaddress import IPv6Network

import numpy as np
import pytest
from numpy.typing import NDArray

from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from decoders.errors import Reason
from decoders.overrides import ExporterRule
from decoders.sessions import S_DUPLICATES, S_OVERRIDE_RATE
from decoders.shared import Decoded
from tests.service import payloads


def batch_of(stem: str) -> Datagrams:
    return Datagrams.of((payload, "192.0.2.1", 9, 1_795_000_000_000_000) for payload in payloads(stem))


def rows(decoded: Decoded) -> int:
    return sum(part.num_rows for part in decoded.flows)


@pytest.mark.parametrize("stem", ["softflowd_v5", "softflowd_v9", "pmacct_sfprobe_s16"])
def test_a_defect_leaves_out_one_datagram_and_no_other(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(stem)
    culprit = len(batch) - 2
    whole = rows(Decoder().decode(batch))
    others = [index for index in range(len(batch)) if index != culprit]
    kept = Datagrams(
        batch.octets,
        *(
            column[others].copy()
            for column in (
                batch.start,
                batch.length,
                batch.address,
                batch.port,
                batch.time_received_us,
                batch.connection,
            )
        ),
    )
    expected = rows(Decoder().decode(kept))
    assert 0 < expected < whole
    decoder = Decoder()
    for part in decoder._parts.values():
        real = part.decode

        def failing(datagrams: Datagrams, picked: NDArray[np.int64], session: NDArray[np.int64], real=real) -> Decoded:
            decoded = real(datagrams, picked, session)  # the state has changed when the defect shows
            if culprit in picked:
                raise RuntimeError("a defect")
            return decoded

        monkeypatch.setattr(part, "decode", failing)

    decoded = decoder.decode(batch)
    sessions = decoder.shared.sessions
    assert rows(decoded) == expected
    assert sessions.problems[:, Reason.INTERNAL].sum() == 1
    assert sessions.problems[:, Reason.DUPLICATE].sum() == 0
    assert sessions.stats[:, S_DUPLICATES].sum() == 0


def test_a_sender_that_is_not_allowed_is_counted_and_not_decoded() -> None:
    decoder = Decoder(rules=[ExporterRule(IPv6Network("::ffff:192.0.2.0/120"), allowed=False)])
    batch = batch_of("fprobe_v5")

    assert rows(decoder.decode(batch)) == 0
    assert decoder.shared.sessions.problems[:, Reason.DENIED].sum() == len(batch)
    decoder.rules = []
    assert rows(decoder.decode(batch)) == 26


def test_a_rule_may_be_of_one_protocol() -> None:
    """One host sends NetFlow v5 and IPFIX: the rate is that of IPFIX only."""
    decoder = Decoder(rules=[ExporterRule(IPv6Network("::/0"), sampling_rate=8, version=10)])
    key = decoder.shared.sessions.key
    for stem in ("ovs_netflow5", "ovs_ipfix_input_only"):
        decoder.decode(batch_of(stem))

    rates = decoder.shared.sessions.stats[1:, S_OVERRIDE_RATE]
    versions = key[1:, 2] >> np.uint64(48)

    assert set(rates[versions == 10].tolist()) == {8}
    assert set(rates[versions == 5].tolist()) == {0}
