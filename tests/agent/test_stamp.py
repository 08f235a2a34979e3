"""STAMP packets, octet for octet as RFC 8762 and RFC 8972 draw them, and as scapy and tshark read them."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import stamp
from agent.stamp import Knowledge, Reply, Request, StampError, Tlv

KEY = bytes(range(32))
REQUEST = Request(0x01020304, 0x1112131415161718, 0x8D21, 0xABCD)
REPLY = Reply(
    0x0A0B0C0D, 0x2122232425262728, 0x0C31, 0xABCD, 0x3132333435363738, 0x01020304, 0x1112131415161718, 0x8D21, 253
)
KNOWN = Knowledge(stamp.SYNC_FREE, stamp.SOFTWARE, (3, 2), (1, 0xEDC0000011112222))
OPEN_REQUEST = bytes.fromhex("01020304 1112131415161718 8d21 abcd") + bytes(28)
OPEN_REPLY = bytes.fromhex(
    "0a0b0c0d 2122232425262728 0c31 abcd 3132333435363738 01020304 1112131415161718 8d21 0000 fd 000000"
)
SIGNED_REQUEST = bytes.fromhex("01020304") + bytes(12) + bytes.fromhex("1112131415161718 8d21 abcd") + bytes(68)
SIGNED_REPLY = b"".join((
    bytes.fromhex("0a0b0c0d"), bytes(12),
    bytes.fromhex("2122232425262728 0c31 abcd"), bytes(4),
    bytes.fromhex("3132333435363738"), bytes(8),
    bytes.fromhex("01020304"), bytes(12),
    bytes.fromhex("1112131415161718 8d21"), bytes(6),
    bytes.fromhex("fd"), bytes(15),
))  # fmt: skip


def mac(octets: bytes) -> bytes:
    """The HMAC of RFC 8762 section 4.4, worked out by other functions."""
    return hmac.new(KEY, octets, hashlib.sha256).digest()[:16]


def test_open_packets_are_laid_out_as_in_figures_2_and_5() -> None:
    assert len(OPEN_REQUEST) == len(OPEN_REPLY) == 44
    assert stamp.pack_request(REQUEST) == OPEN_REQUEST
    assert stamp.pack_reply(REPLY) == OPEN_REPLY
    assert stamp.parse_request(OPEN_REQUEST) == REQUEST
    assert stamp.parse_reply(OPEN_REPLY) == REPLY


def test_authenticated_packets_are_laid_out_as_in_figures_4_and_6() -> None:
    assert len(SIGNED_REQUEST) == len(SIGNED_REPLY) == 96
    assert stamp.pack_request(REQUEST, KEY) == SIGNED_REQUEST + mac(SIGNED_REQUEST)
    assert stamp.pack_reply(REPLY, KEY) == SIGNED_REPLY + mac(SIGNED_REPLY)
    assert stamp.parse_request(SIGNED_REQUEST + mac(SIGNED_REQUEST), KEY) == REQUEST
    assert stamp.parse_reply(SIGNED_REPLY + mac(SIGNED_REPLY), KEY) == REPLY


def test_zero_fields_are_ignored_and_proven() -> None:
    filled = bytes(octet or 0xFF for octet in SIGNED_REPLY)  # no field of REPLY has a zero octet
    assert stamp.parse_reply(filled + mac(filled), KEY) == REPLY
    assert stamp.parse_request(OPEN_REQUEST[:16] + b"\xff" * 28) == REQUEST
    with pytest.raises(StampError, match="hmac"):
        stamp.parse_reply(filled + mac(SIGNED_REPLY), KEY)


@pytest.mark.parametrize("at", range(112))
def test_no_octet_can_change_under_a_key(at: int) -> None:
    octets = bytearray(stamp.pack_request(REQUEST, KEY))
    octets[at] ^= 1
    with pytest.raises(StampError, match="hmac"):
        stamp.parse_request(bytes(octets), KEY)


def test_short_packets_are_none() -> None:
    for size in range(44):
        with pytest.raises(StampError, match="short"):
            stamp.parse_request(OPEN_REQUEST[:size])
    for size in range(112):
        with pytest.raises(StampError, match="short"):
            stamp.parse_request(stamp.pack_request(REQUEST, KEY)[:size], KEY)


def test_a_reply_of_twamp_light_has_no_ttl() -> None:
    """RFC 5357 appendix I: what lies behind the sender's time may be missing."""
    assert stamp.parse_reply(OPEN_REPLY[:41]) == REPLY
    assert stamp.parse_reply(OPEN_REPLY[:40]) == REPLY._replace(ttl=None)
    assert stamp.parse_reply(OPEN_REPLY[:40] + bytes(4)) == REPLY._replace(ttl=None)  # no packet arrives with 0
    for key in (None, KEY):
        assert stamp.parse_reply(stamp.pack_reply(REPLY._replace(ttl=None), key), key).ttl is None
    assert stamp.parse_reply(OPEN_REPLY[:36]) == REPLY._replace(ttl=None, sender_error=0)
    with pytest.raises(StampError, match="short"):
        stamp.parse_reply(OPEN_REPLY[:35])


def test_a_reflectors_packet_is_known_by_its_times() -> None:
    """Without it, one forged packet would go to and fro between two reflectors for ever."""
    soon = REPLY._replace(sent=REPLY.received + (59 << 32))
    for key in (None, KEY):
        assert stamp.is_reply(stamp.pack_reply(soon, key), key)
        assert not stamp.is_reply(stamp.pack_request(REQUEST, key), key)
    assert not stamp.is_reply(OPEN_REQUEST[:16] + b"\xff" * 28)
    assert stamp.is_reply(stamp.pack_reply(REPLY._replace(received=(1 << 32) - 1 << 32, sent=5)))  # 2036


def test_tlvs_are_answered_as_another_implementation_does() -> None:
    """The octets are those of asmie/stamp-suite 1.0.0, of its third reply to one session; its types 4 and 6 apart."""
    asked = bytes.fromhex(
        "80010008aaaaaaaaaaaaaaaa 8003000400000000 8005000c000000050000000000000000"
        "80070010 00000000 0000000000000000 00000000 800900047f000001 80c800027a7a"
    )
    answered = bytes.fromhex(
        "00010008aaaaaaaaaaaaaaaa 0003000405020502 0005000c000000050000000300000002"
        "00070010 00000001 edc0000011112222 02000000 800900047f000001 80c800027a7a"
    )
    assert stamp.answer_tlvs(asked, 2, 2, KNOWN) == answered


def test_before_the_first_reply_there_is_none_to_correct() -> None:
    asked = bytes.fromhex("80070010") + b"\xff" * 16
    assert stamp.answer_tlvs(asked, 2, 2, KNOWN._replace(last_reply=(0, 0))) == bytes.fromhex("00070010") + bytes(16)


@pytest.mark.parametrize("broken", ["80050004 00000000", "8001ffff 00000000", "80030005 0000000000"])
def test_a_malformed_tlv_ends_it_and_the_rest_is_copied(broken: str) -> None:
    octets = bytes.fromhex(broken)
    behind = bytes.fromhex("80030004 00000000")
    answered = stamp.answer_tlvs(bytes.fromhex("80010000") + octets + behind, 1, 1, KNOWN)
    assert answered == bytes.fromhex("00010000") + b"\x40" + octets[1:] + behind


def test_an_hmac_covers_the_sequence_number_and_what_stands_before_it() -> None:
    tlv = bytes.fromhex("8003000400000000")
    asked = stamp.pack_tlvs([Tlv(0x80, 3, bytes(4))], 7, KEY)
    assert asked == tlv + bytes.fromhex("80080010") + mac(bytes.fromhex("00000007") + tlv)

    filled = bytes.fromhex("0003000405020502")
    answered = stamp.answer_tlvs(asked, 7, 9, KNOWN, KEY)
    assert answered == filled + bytes.fromhex("00080010") + mac(bytes.fromhex("00000009") + filled)
    assert stamp.parse_tlvs(answered, 9, KEY) == [Tlv(0, 3, bytes.fromhex("05020502"))]
    assert stamp.parse_tlvs(answered, 8, KEY) == []


def test_a_wrong_or_missing_hmac_is_told_in_every_tlv_and_nothing_is_filled_in() -> None:
    asked = bytearray(stamp.pack_tlvs([Tlv(0x80, 3, bytes(4)), Tlv(0x80, 1, b"x")], 7, KEY))
    for octets in (bytes(asked[:13]), bytes(asked[:-1]) + b"?"):
        answered = stamp.answer_tlvs(octets, 7, 9, KNOWN, KEY)
        expected = bytearray(octets)
        expected[0] = expected[8] = 0x20
        if len(octets) > 13:
            expected[13] = 0x20
        assert answered == bytes(expected)
        assert stamp.parse_tlvs(answered, 9, KEY) == []


def test_padding_alone_needs_no_hmac() -> None:
    asked = stamp.pack_tlvs([Tlv(0x80, 1, b"xyz")], 7, KEY)
    assert asked == bytes.fromhex("80010003") + b"xyz"
    assert stamp.answer_tlvs(asked, 7, 9, KNOWN, KEY) == bytes.fromhex("00010003") + b"xyz"


def test_the_sender_passes_over_what_was_not_understood_and_stops_at_what_is_malformed() -> None:
    octets = bytes.fromhex("80050000 00030004 05020502 40010000 00010000")
    assert stamp.parse_tlvs(octets[4:]) == [Tlv(0, 3, bytes.fromhex("05020502"))]
    assert stamp.parse_tlvs(octets) == []  # type 5 has 12 octets
    assert stamp.parse_tlvs(octets[4:12] + b"\x20\x01\x00\x00") == []


@given(st.binary(max_size=200), st.sampled_from([None, KEY]))
@settings(max_examples=300, deadline=None)
def test_whatever_comes_is_answered_in_the_same_length_or_refused(octets: bytes, key: bytes | None) -> None:
    assert len(stamp.answer_tlvs(octets, 1, 2, KNOWN, key)) == len(octets)
    stamp.parse_tlvs(octets, 1, key)
    for parse in (stamp.parse_request, stamp.parse_reply):
        with contextlib.suppress(StampError):
            parse(octets, key)


def test_many_tlvs_cost_no_more_than_a_few() -> None:
    """What lies behind sixteen is copied."""
    asked = bytes.fromhex("80c80000") * 100
    assert stamp.answer_tlvs(asked, 1, 1, KNOWN) == asked
    asked = bytes.fromhex("00c80000") * 100
    assert stamp.answer_tlvs(asked, 1, 1, KNOWN) == bytes.fromhex("80c80000") * 16 + asked[64:]


def test_scapy_reads_the_same() -> None:
    scapy = pytest.importorskip("scapy.contrib.stamp", reason="scapy has the layouts")
    tlvs = stamp.pack_tlvs([Tlv(0x80, 3, b"abcd")])

    sent = scapy.STAMPSessionSenderTestUnauthenticated(OPEN_REQUEST + tlvs)
    assert (sent.seq, sent.ssid) == (REQUEST.sequence, REQUEST.ssid)
    assert (sent.err_estimate.S, sent.err_estimate.scale, sent.err_estimate.multiplier) == (1, 0x0D, 0x21)
    assert (sent.tlv_objects[0].type, sent.tlv_objects[0].len, sent.tlv_objects[0].value) == (3, 4, b"abcd")

    got = scapy.STAMPSessionReflectorTestUnauthenticated(OPEN_REPLY)
    assert (got.seq, got.ssid, got.seq_sender, got.ttl_sender) == (0x0A0B0C0D, 0xABCD, 0x01020304, 253)
    assert struct.pack("!Q", REPLY.received) in bytes(got)
    assert bytes(got) == OPEN_REPLY


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed (Debian package tshark)")
def test_tshark_reads_the_same(tmp_path: Path) -> None:
    scapy = pytest.importorskip("scapy.all", reason="scapy writes the capture")
    file = tmp_path / "stamp.pcap"
    packets = [
        scapy.Ether() / scapy.IP(src="192.0.2.1", dst="192.0.2.2") / scapy.UDP(sport=40000, dport=862) / OPEN_REQUEST,
        scapy.Ether() / scapy.IP(src="192.0.2.2", dst="192.0.2.1") / scapy.UDP(sport=862, dport=40000) / OPEN_REPLY,
    ]
    scapy.wrpcap(str(file), packets)
    fields = (
        "twamp.test.seq_number",
        "twamp.test.error_estimate",
        "twamp.test.sender_seq_number",
        "twamp.test.sender_ttl",
    )
    command = ["tshark", "-r", file, "-d", "udp.port==862,twamp.test", "-Tfields", *(f"-e{name}" for name in fields)]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    request, reply = (line.split("\t") for line in done.stdout.splitlines())
    assert (int(request[0]), int(request[1], 0)) == (REQUEST.sequence, REQUEST.error)
    assert [int(cell, 0) for cell in reply] == [REPLY.sequence, REPLY.error, REPLY.sender_sequence, REPLY.ttl]
