"""Reading captures: against scapy, Wireshark's tools and the goldens; then what is unusual or broken."""

from __future__ import annotations

import csv
import gzip
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from itertools import zip_longest
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scapy.config import conf
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, LLC, SNAP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgWriter, PcapReader, PcapWriter

from collector.capture import frames as fragments_module
from collector.capture.read import (
    CapturedDatagram,
    CaptureError,
    CaptureProblems,
    Skip,
    batch_of,
    read_batches,
    read_capture,
)
from decoders.datagrams import Datagrams

PCAPS = Path(__file__).parents[2] / "fixtures" / "pcaps"
CAPTURES = sorted(path for path in PCAPS.glob("*.pcap") if not path.name.startswith("mirror_"))
"""Of exports; the others hold the traffic itself."""
ETHERNET, NULL, RAW, LOOP, SLL, SLL2, IPV4, IPV6 = 1, 0, 101, 108, 113, 276, 228, 229
PAYLOAD = b"\x00\x0a" + bytes(range(200))
MACS = ("52:54:00:0a:00:01", "52:54:00:0a:00:02")
ETH = Ether(src=MACS[0], dst=MACS[1])
SENT = ("192.0.2.11", 4000, "192.0.2.1", 4739)
SENT6 = ("2001:db8::11", 4000, "2001:db8::1", 4739)


def name(path: Path) -> str:
    return path.stem


def read(path: Path) -> tuple[list[CapturedDatagram], CaptureProblems]:
    problems = CaptureProblems()
    datagrams = list(read_capture(path, problems))
    assert problems.datagrams == len(datagrams)
    assert problems.frames == problems.datagrams + problems.joined + problems.skipped.total()
    return datagrams, problems


def pcap(frames: Iterable[bytes], link: int = ETHERNET, order: str = "<", more: int = 0, step: int = 1) -> bytes:
    """A capture, one frame each `step` seconds; `more` is what each was longer on the wire."""
    out = struct.pack(order + "IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, link)
    for number, frame in enumerate(frames):
        out += struct.pack(order + "IIII", number * step, 5, len(frame), len(frame) + more) + frame
    return out


def read_frames(
    tmp_path: Path, frames: Iterable[Packet | bytes], link: int = ETHERNET, step: int = 1
) -> tuple[list, dict]:
    """(sender, receiver, payload) of each datagram, and the reasons of the frames that gave none."""
    file = tmp_path / "frames.pcap"
    file.write_bytes(pcap([bytes(frame) for frame in frames], link, step=step))
    datagrams, problems = read(file)
    return [(*datagram[1:5], datagram.payload) for datagram in datagrams], dict(problems.skipped)


def ip4(payload: bytes = PAYLOAD, **fields: int) -> Packet:
    return IP(src=SENT[0], dst=SENT[2], **fields) / UDP(sport=SENT[1], dport=SENT[3]) / Raw(payload)


def ip6(*extensions: Packet, payload: bytes = PAYLOAD) -> Packet:
    packet: Packet = IPv6(src=SENT6[0], dst=SENT6[2])
    for extension in extensions:
        packet /= extension
    return packet / UDP(sport=SENT6[1], dport=SENT6[3]) / Raw(payload)


def by_scapy(path: Path) -> list[CapturedDatagram]:
    """What scapy finds; export ports are left undissected, so the payload is as captured."""
    found = []
    with PcapReader(str(path)) as reader:
        for packet in reader:
            network = packet.getlayer(IP) or packet[IPv6]
            udp = packet[UDP]
            payload = udp.original[8 : udp.len]
            time_us = int(packet.time * 1_000_000)
            found.append(CapturedDatagram(time_us, network.src, udp.sport, network.dst, udp.dport, payload))
    return found


@pytest.fixture(autouse=True)
def _plain_scapy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scapy must not look at this machine's routes to fill in addresses."""
    monkeypatch.setattr(conf, "resolve", set())


# --- real captures ---


@pytest.mark.parametrize("path", CAPTURES, ids=name)
def test_real_captures_read_as_scapy_reads_them(path: Path) -> None:
    datagrams, problems = read(path)

    assert datagrams == by_scapy(path)
    assert str(problems) == "none"


@pytest.mark.parametrize("path", sorted(PCAPS.glob("*.headers.tsv")) + sorted(PCAPS.glob("*.samples.tsv")), ids=name)
def test_real_captures_agree_with_their_goldens(path: Path) -> None:
    """Number, sender and (sFlow) time of each datagram as tshark and the lab's own decoder list them."""
    datagrams, _ = read(PCAPS / (path.name.split(".")[0] + ".pcap"))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))

    assert rows
    for row in rows:
        datagram = datagrams[int(row["frame"]) - 1]
        assert datagram.source == row["exporter"]
        assert row.get("sport", "").startswith(str(datagram.source_port)) or path.name.endswith("samples.tsv")
        if "time" in row:
            seconds, _, fraction = row["time"].partition(".")
            assert datagram.time_us == int(seconds) * 1_000_000 + int(fraction.ljust(6, "0")[:6])


@pytest.mark.network
@pytest.mark.skipif(shutil.which("editcap") is None, reason="editcap (of Wireshark) is not installed")
@pytest.mark.parametrize("kind", ["pcapng", "nsecpcap"])
def test_files_that_wireshark_converts_read_the_same(kind: str, tmp_path: Path) -> None:
    for path in CAPTURES:
        converted = tmp_path / f"{path.stem}.{kind}"
        subprocess.run(["editcap", "-F", kind, path, converted], check=True)

        assert read(converted)[0] == read(path)[0]


@pytest.mark.parametrize("order", ["<", ">"])
def test_files_that_scapy_writes_read_the_same(order: str, tmp_path: Path) -> None:
    path = PCAPS / "ovs_sflow_mixed.pcap"
    with PcapReader(str(path)) as reader:
        packets = list(reader)
    with PcapNgWriter(str(tmp_path / "a.pcapng")) as ng:
        ng.write(packets)
    with PcapWriter(str(tmp_path / "a.pcap"), linktype=ETHERNET, endianness=order, nano=True) as nano:
        nano.write(packets)

    assert read(tmp_path / "a.pcap")[0] == by_scapy(path)
    assert read(tmp_path / "a.pcapng")[0] == by_scapy(path)


def test_gzip_and_standard_input_read_the_same() -> None:
    path = PCAPS / "ovs_netflow5.pcap"
    program = """if True:
        import hashlib
        from collector.capture.read import read_capture
        print(hashlib.sha256(repr([tuple(row) for row in read_capture("-")]).encode()).hexdigest())
    """
    outputs = set()
    for octets in (path.read_bytes(), gzip.compress(path.read_bytes())):
        done = subprocess.run([sys.executable, "-c", program], input=octets, capture_output=True, check=True)
        outputs.add(done.stdout)
    expected = subprocess.run(
        [sys.executable, "-c", program.replace('"-"', repr(str(path)))], capture_output=True, check=True
    )

    assert outputs == {expected.stdout}


def test_batches_hold_what_single_datagrams_hold() -> None:
    path = PCAPS / "ovs_sflow_exact_s1.pcap"
    rows = list(read_capture(path))
    expected = Datagrams.of((row.payload, row.source, row.source_port, row.time_us) for row in rows)
    batches = list(read_batches(path, datagrams=100))

    assert [len(batch) for batch in batches] == [100, 100, 7]
    at = 0
    for batch in batches:
        for number in range(len(batch)):
            start, length = int(batch.start[number]), int(batch.length[number])
            assert batch.octets[start : start + length].tobytes() == rows[at].payload
            assert tuple(batch.address[number]) == tuple(expected.address[at])
            assert batch.port[number] == expected.port[at]
            assert batch.time_received_us[number] == expected.time_received_us[at]
            at += 1
    assert at == len(rows)
    assert batches[0].octets.flags.writeable
    assert len(batch_of([])) == 0


# --- frames ---

NEVER_SEEN = b"\0" * 12


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (ETHERNET, ETH / ip4()),
        (ETHERNET, bytes(ETH / ip4()) + b"padding"),
        (ETHERNET, ETH / Dot1Q(vlan=10) / ip4()),
        (ETHERNET, ETH / Dot1AD(vlan=7) / Dot1Q(vlan=10) / ip4()),
        (
            ETHERNET,
            Ether(src=MACS[0], dst=MACS[1], type=0x9100) / Raw(bytes(Dot1Q(vlan=10, type=0x0800))) / Raw(bytes(ip4())),
        ),
        (
            ETHERNET,
            Dot3(src=MACS[0], dst=MACS[1]) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0, code=0x0800) / ip4(),
        ),
        (ETHERNET | 0x2000_0000 | 1 << 26, bytes(ETH / ip4()) + b"\1\2\3\4"),  # with its frame check sequence
        (SLL, CookedLinux(proto=0x0800) / ip4()),
        (SLL, CookedLinux(proto=0x8100) / Raw(b"\0\x0a\x08\0" + bytes(ip4()))),
        (SLL2, CookedLinuxV2(proto=0x0800) / ip4()),
        (NULL, b"\2\0\0\0" + bytes(ip4())),
        (NULL, b"\0\0\0\2" + bytes(ip4())),
        (LOOP, b"\0\0\0\2" + bytes(ip4())),
        (RAW, ip4()),
        (12, ip4()),
        (14, ip4()),
        (IPV4, ip4()),
        (ETHERNET, ETH / ip4(options=[b"\x94\x04\0\0"])),
    ],
)
def test_every_link_type_over_ipv4(link: int, frame: Packet | bytes, tmp_path: Path) -> None:
    datagrams, skipped = read_frames(tmp_path, [frame], link)

    assert datagrams == [(*SENT, PAYLOAD)]
    assert skipped == {}


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (ETHERNET, ETH / ip6()),
        (ETHERNET, ETH / Dot1Q(vlan=10) / ip6()),
        (SLL, CookedLinux(proto=0x86DD) / ip6()),
        (SLL2, CookedLinuxV2(proto=0x86DD) / ip6()),
        *[(NULL, bytes([family, 0, 0, 0]) + bytes(ip6())) for family in (10, 24, 28, 30)],
        (LOOP, b"\0\0\0\x18" + bytes(ip6())),
        (RAW, ip6()),
        (IPV6, ip6()),
        (RAW, ip6(IPv6ExtHdrHopByHop(), IPv6ExtHdrRouting(), IPv6ExtHdrDestOpt())),
        (RAW, ip6(AH(nh=17, payloadlen=4, icv=b"\0" * 12))),
        (RAW, ip6(IPv6ExtHdrFragment(id=7))),  # whole, with a fragment header all the same
        (RAW, ip6(IPv6ExtHdrHopByHop(), IPv6ExtHdrFragment(id=7), IPv6ExtHdrDestOpt())),
    ],
)
def test_every_link_type_over_ipv6(link: int, frame: Packet | bytes, tmp_path: Path) -> None:
    datagrams, skipped = read_frames(tmp_path, [frame], link)

    assert datagrams == [(*SENT6, PAYLOAD)]
    assert skipped == {}


WHOLE = bytes(ETH / ip4())


def with_udp_length(length: int) -> bytes:
    return WHOLE[:38] + struct.pack(">H", length) + WHOLE[40:]


@pytest.mark.parametrize(
    ("frame", "link", "reason"),
    [
        (ETH / ARP(), ETHERNET, Skip.NOT_IP),
        (ETH / ip4() / ip4(), 105, Skip.LINK_TYPE),
        (Dot3(src=MACS[0], dst=MACS[1]) / LLC(dsap=0x42, ssap=0x42) / Raw(NEVER_SEEN), ETHERNET, Skip.NOT_IP),
        (b"\x63\0\0\0" + bytes(ip4()), NULL, Skip.NOT_IP),
        (b"", ETHERNET, Skip.IP_HEADER),
        (b"", RAW, Skip.NOT_IP),
        (b"\x02", NULL, Skip.NOT_IP),
        (NEVER_SEEN, SLL, Skip.IP_HEADER),
        (NEVER_SEEN, SLL2, Skip.IP_HEADER),
        (WHOLE[:30], ETHERNET, Skip.IP_HEADER),
        (WHOLE[:14] + b"\x44" + WHOLE[15:], ETHERNET, Skip.IP_HEADER),  # header of 16 octets
        (WHOLE[:14] + b"\x65" + WHOLE[15:], ETHERNET, Skip.IP_HEADER),  # version 6
        (WHOLE[:16] + b"\0\x13" + WHOLE[18:], ETHERNET, Skip.IP_HEADER),  # total length of 19
        (Ether(src=MACS[0], dst=MACS[1], type=0x8100) / Raw(b"\0"), ETHERNET, Skip.NOT_IP),
        (ETH / IP(dst=SENT[2]) / TCP(), ETHERNET, Skip.NOT_UDP),
        (bytes(ip6())[:39], RAW, Skip.IP_HEADER),
        (ip6(*[IPv6ExtHdrDestOpt()] * 9), RAW, Skip.IP_HEADER),
        (IPv6(nh=60) / Raw(b"\x11\xff" + NEVER_SEEN), RAW, Skip.IP_HEADER),
        (IPv6(nh=44) / Raw(b"\x11\0\0\1"), RAW, Skip.IP_HEADER),
        (IPv6(nh=59), RAW, Skip.NOT_UDP),
        (with_udp_length(0), ETHERNET, Skip.UDP_LENGTH),
        (with_udp_length(7), ETHERNET, Skip.UDP_LENGTH),
        (with_udp_length(8 + len(PAYLOAD) + 1), ETHERNET, Skip.UDP_LENGTH),
        (WHOLE[:16] + b"\0\0\0\0\x20\0" + WHOLE[22:], ETHERNET, Skip.IP_HEADER),  # a fragment without a length
        (WHOLE[:-1], ETHERNET, Skip.CUT),
        (WHOLE[:36], ETHERNET, Skip.CUT),
        (ETH / IP(len=24, proto=17) / Raw(b"\0\1\0\2"), ETHERNET, Skip.UDP_LENGTH),
    ],
)
def test_frames_without_a_datagram_are_counted_and_their_neighbours_kept(
    frame: Packet | bytes, link: int, reason: Skip, tmp_path: Path
) -> None:
    good = {ETHERNET: WHOLE, SLL: bytes(CookedLinux(proto=0x0800) / ip4()), NULL: b"\2\0\0\0" + bytes(ip4())}
    good[SLL2] = bytes(CookedLinuxV2(proto=0x0800) / ip4())
    neighbour = good.get(link, bytes(ip4()))
    datagrams, skipped = read_frames(tmp_path, [neighbour, frame, neighbour], link)

    if reason is Skip.LINK_TYPE:
        assert (datagrams, skipped) == ([], {reason: 3})
    else:
        assert (datagrams, skipped) == ([(*SENT, PAYLOAD)] * 2, {reason: 1})


def test_lengths_left_to_the_network_card_end_with_the_frame(tmp_path: Path) -> None:
    """Segmentation offload: IPv4 total length 0, IPv6 payload length 0."""
    four = WHOLE[:16] + b"\0\0" + WHOLE[18:]
    six = bytes(ETH / ip6())
    six = six[:18] + b"\0\0" + six[20:]

    assert read_frames(tmp_path, [four, six]) == ([(*SENT, PAYLOAD), (*SENT6, PAYLOAD)], {})


def test_shorter_udp_length_cuts_padding(tmp_path: Path) -> None:
    assert read_frames(tmp_path, [with_udp_length(8), with_udp_length(10)]) == (
        [(*SENT, b""), (*SENT, PAYLOAD[:2])],
        {},
    )


def test_frames_cut_by_the_snap_length(tmp_path: Path) -> None:
    """A prefix of a datagram is not handed on; a datagram of which only the padding behind it was cut, is."""
    offloaded = WHOLE[:16] + b"\0\0" + WHOLE[18:-1]  # IP total length 0
    (tmp_path / "cut.pcap").write_bytes(pcap([WHOLE[:-3], WHOLE[:30], offloaded, WHOLE, WHOLE + b"pad"], more=7))
    datagrams, problems = read(tmp_path / "cut.pcap")

    assert [datagram.payload for datagram in datagrams] == [PAYLOAD, PAYLOAD]
    assert problems.skipped == {Skip.CUT: 3}


# --- fragments ---

LONG = bytes(range(256)) * 20


def pieces4(identification: int = 1, payload: bytes = LONG) -> list[Packet]:
    return [ETH / piece for piece in fragment(ip4(payload, id=identification), fragsize=1480)]


def pieces6() -> list[Packet]:
    whole = ip6(IPv6ExtHdrHopByHop(), IPv6ExtHdrFragment(id=9), IPv6ExtHdrDestOpt(), payload=LONG)
    return [ETH / piece for piece in fragment6(whole, 1280)]


@pytest.mark.parametrize("turned", [False, True])
def test_fragments_are_joined(turned: bool, tmp_path: Path) -> None:
    for pieces, sent in ((pieces4(), SENT), (pieces6(), SENT6)):
        assert len(pieces) > 3
        assert read_frames(tmp_path, pieces[:: -1 if turned else 1]) == ([(*sent, LONG)], {})


def test_interleaved_packets_do_not_mix(tmp_path: Path) -> None:
    other = bytes(reversed(LONG))
    rows = zip_longest(pieces4(1), pieces4(2, other), pieces6())
    frames = [piece for row in rows for piece in row if piece is not None]
    datagrams, skipped = read_frames(tmp_path, frames)

    assert sorted(datagrams) == sorted([(*SENT, LONG), (*SENT, other), (*SENT6, LONG)])
    assert skipped == {}


def test_doubles_of_fragments_are_ignored(tmp_path: Path) -> None:
    """A capture on all interfaces has each frame twice; the doubles must not become part of a later packet."""
    twice = [piece for piece in pieces4() for _ in range(2)]

    assert read_frames(tmp_path, twice, step=0) == ([(*SENT, LONG)], {Skip.FRAGMENT_DUPLICATE: len(pieces4())})


def test_incomplete_packets_are_counted_and_given_up_in_time(tmp_path: Path) -> None:
    """One frame a second: after 31 frames the first piece is too old to be joined."""
    pieces = pieces4()
    late = [pieces[0]] + [WHOLE] * 31 + pieces[1:]
    datagrams, skipped = read_frames(tmp_path, late)

    assert [datagram[4] for datagram in datagrams] == [PAYLOAD] * 31
    assert skipped == {Skip.FRAGMENT_INCOMPLETE: len(pieces)}
    in_time = [pieces[0]] + [WHOLE] * 20 + pieces[1:]
    assert read_frames(tmp_path, in_time) == ([(*SENT, PAYLOAD)] * 20 + [(*SENT, LONG)], {})


def raw_piece(offset: int, octets: bytes, more: bool, identification: int = 3) -> Packet:
    flags = "MF" if more else 0
    return ETH / IP(src=SENT[0], dst=SENT[2], id=identification, frag=offset // 8, flags=flags, proto=17) / Raw(octets)


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, 16, True), (8, 16, False), (0, 8, True)],  # the second overlaps the first
        [(0, 16, True), (0, 8, True)],  # the same place, other content
        [(0, 8, True), (16, 8, False), (24, 8, False)],  # two ends
        [(16, 8, True), (0, 8, True), (8, 8, False)],  # beyond the end
        [(0, 12, True)],  # no multiple of 8
        [(65_528, 16, False)],  # beyond 65,535
        [(8, 0, False)],  # empty
    ],
)
def test_contradicting_fragments_are_dropped(pieces: list[tuple[int, int, bool]], tmp_path: Path) -> None:
    frames = [raw_piece(offset, bytes(size), more) for offset, size, more in pieces]
    datagrams, skipped = read_frames(tmp_path, [*frames, WHOLE])

    assert datagrams == [(*SENT, PAYLOAD)]
    assert set(skipped) <= {Skip.FRAGMENT_INVALID, Skip.FRAGMENT_INCOMPLETE}
    assert skipped[Skip.FRAGMENT_INVALID] >= 1
    assert sum(skipped.values()) == len(pieces)


def test_held_fragments_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments_module, "HELD_LIMIT", 10_000)
    problems = CaptureProblems()
    held = fragments_module.Fragments(problems)
    first = pieces4()[0][IP]
    for identification in range(1000):
        first.id = identification
        found = fragments_module.Fragments.add(held, piece_of(bytes(first)), 0)
        assert found is None
        assert held._held <= 10_000
    assert problems.skipped[Skip.FRAGMENT_INCOMPLETE] == 1000 - len(held._partial)
    held.close()
    assert problems.skipped[Skip.FRAGMENT_INCOMPLETE] == 1000
    assert held._held == 0


def piece_of(octets: bytes) -> fragments_module.Piece:
    from collector.capture.frames import ip_of

    piece = ip_of(RAW, octets)
    assert isinstance(piece, fragments_module.Piece)
    return piece


def test_a_packet_of_too_many_pieces_is_dropped(tmp_path: Path) -> None:
    frames = [raw_piece(8 * number, bytes(8), True) for number in range(fragments_module.PIECES_LIMIT + 1)]

    assert read_frames(tmp_path, frames, step=0) == ([], {Skip.FRAGMENT_INVALID: len(frames)})


# --- pcapng ---


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link: int, snap: int = 0, order: str = "<", **options: bytes) -> bytes:
    body = struct.pack(order + "HHI", link, 0, snap)
    for code, value in ((9, options.get("resolution")), (14, options.get("offset")), (2, b"eth0")):
        if value is not None:
            body += struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)
    return block(1, body + bytes(4), order)


def enhanced(number: int, ticks: int, frame: bytes, order: str = "<", more: int = 0) -> bytes:
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFF_FFFF, len(frame), len(frame) + more)
    return block(6, head + frame + bytes(-len(frame) % 4) + struct.pack(order + "HHI", 2, 4, 1) + bytes(4), order)


def read_blocks(tmp_path: Path, *blocks: bytes) -> tuple[list[tuple[int, str]], CaptureProblems]:
    """(time, source) of each datagram."""
    file = tmp_path / "blocks.pcapng"
    file.write_bytes(b"".join(blocks))
    datagrams, problems = read(file)
    assert all(datagram.payload == PAYLOAD for datagram in datagrams)
    return [(datagram.time_us, datagram.source) for datagram in datagrams], problems


RAW4, RAW6 = bytes(ip4()), bytes(ip6())


@pytest.mark.parametrize("order", ["<", ">"])
def test_interfaces_have_their_own_link_type_and_clock(order: str, tmp_path: Path) -> None:
    found, problems = read_blocks(
        tmp_path,
        section(order),
        interface(ETHERNET, order=order),
        interface(RAW, order=order, resolution=b"\x09"),
        interface(RAW, order=order, resolution=b"\x8a", offset=struct.pack(order + "q", 1_700_000_000)),
        interface(RAW, order=order, resolution=b"\x00", offset=struct.pack(order + "q", -10)),
        enhanced(0, 1_795_448_400_864_019, WHOLE, order),
        enhanced(1, 1_795_448_400_864_019_999, RAW4, order),
        enhanced(2, 1536, RAW6, order),
        enhanced(3, 15, RAW6, order),
    )

    assert found == [
        (1_795_448_400_864_019, SENT[0]),
        (1_795_448_400_864_019, SENT[0]),
        (1_700_000_001_500_000, SENT6[0]),
        (5_000_000, SENT6[0]),
    ]
    assert str(problems) == "none"


def test_a_new_section_forgets_the_interfaces_and_may_turn_the_byte_order(tmp_path: Path) -> None:
    found, problems = read_blocks(
        tmp_path,
        section("<"),
        interface(ETHERNET),
        enhanced(0, 1, WHOLE),
        section(">"),
        enhanced(0, 2, WHOLE, ">"),
        interface(RAW, order=">"),
        enhanced(0, 3, RAW4, ">"),
        enhanced(1, 4, RAW4, ">"),
    )

    assert found == [(1, SENT[0]), (3, SENT[0])]
    assert problems.skipped == {Skip.INTERFACE: 2}


def test_simple_and_old_packets_and_unknown_blocks(tmp_path: Path) -> None:
    old = struct.pack("<HHIIII", 0, 3, 0, 77, len(RAW4), len(RAW4)) + RAW4
    found, problems = read_blocks(
        tmp_path,
        section(),
        block(0x0BAD, b"custom"),
        interface(RAW),
        block(3, struct.pack("<I", len(RAW4)) + RAW4),
        block(2, old),
        block(5, bytes(12)),
        block(3, struct.pack("<I", len(RAW4)) + RAW4),
        section(),
        block(3, struct.pack("<I", len(RAW4)) + RAW4),
        interface(RAW, snap=64),
        block(3, struct.pack("<I", len(RAW4)) + RAW4[:64]),
    )

    assert found == [(0, SENT[0]), (77, SENT[0]), (77, SENT[0])]
    assert problems.skipped == {Skip.INTERFACE: 1, Skip.CUT: 1}


def test_times_out_of_range_are_counted(tmp_path: Path) -> None:
    found, problems = read_blocks(
        tmp_path,
        section(),
        interface(RAW, resolution=b"\x00"),
        interface(RAW, offset=struct.pack("<q", -(2**62))),
        interface(RAW, resolution=b"\xff"),
        interface(RAW, resolution=b"\x7f"),
        enhanced(0, 2**64 - 1, RAW4),
        enhanced(1, 5, RAW4),
        enhanced(2, 2**64 - 1, RAW4),
        enhanced(3, 2**64 - 1, RAW4),
    )

    assert found == [(0, SENT[0]), (0, SENT[0])]
    assert problems.skipped == {Skip.TIME: 2}


# --- damage ---

GOOD = pcap([WHOLE, WHOLE])
GOOD_NG = section() + interface(ETHERNET) + enhanced(0, 1, WHOLE) + enhanced(0, 2, WHOLE)


@pytest.mark.parametrize(
    ("octets", "good", "message"),
    [
        (b"", 0, "at offset 0: expected a pcap or pcapng file, found no octets"),
        (b"abc", 0, "at offset 0: expected a pcap or pcapng file, found 3 octets"),
        (b"GET / HTTP/1.1", 0, "at offset 0: expected a pcap or pcapng file, found 47 45 54 20 at its start"),
        (b"\x34\xcd\xb2\xa1" + GOOD[4:], 0, "at offset 0: expected a pcap or pcapng file, found 34 cd b2 a1"),
        (GOOD[:20], 0, "at offset 0: expected a pcap file header of 24 octets, the file ends after 20"),
        (GOOD[:4] + b"\x03" + GOOD[5:], 0, "at offset 24: expected pcap version 2, found 3"),
        (GOOD + b"\xff" * 16, 2, f"at offset {len(GOOD)}: expected a packet of at most 1048576 octets"),
        (GOOD_NG[:20], 0, "at offset 0: expected a section header of at least 28 octets"),
        (
            GOOD_NG[:8] + b"abcd" + GOOD_NG[12:],
            0,
            "expected a byte order mark in the section header, found 61 62 63 64",
        ),
        (GOOD_NG[:12] + b"\x02" + GOOD_NG[13:], 0, "expected pcapng version 1, found 2"),
        (
            GOOD_NG + block(6, bytes(16)),
            2,
            f"at offset {len(GOOD_NG)}: expected a packet block with 20 octets of header",
        ),
        (GOOD_NG + block(6, bytes(12) + b"\xff" * 8), 2, "expected a packet of at most 0 octets in its block"),
        (GOOD_NG + block(3, b""), 2, "expected a simple packet block with 4 octets of header, found 0"),
        (GOOD_NG + block(1, bytes(4)), 2, "expected an interface description of at least 8 octets, found 4"),
        (GOOD_NG + block(1, bytes(8) + b"\2\0\xff\0"), 2, "expected an option of at most 0 octets, found 255"),
        (
            GOOD_NG + struct.pack("<III", 5, 8, 8),
            2,
            "expected a block of 12 to 16777216 octets, a multiple of 4, found 8",
        ),
        (GOOD_NG + struct.pack("<III", 5, 13, 8), 2, "a multiple of 4, found 13"),
        (GOOD_NG + struct.pack("<III", 5, 1 << 30, 8), 2, "a multiple of 4, found 1073741824"),
        (GOOD_NG + struct.pack("<IIII", 5, 16, 0, 12), 2, "expected a block that ends with its length 16, found 12"),
        (gzip.compress(GOOD)[:-8] + b"\xff" * 8, None, "cannot read on"),
    ],
)
def test_damage_is_reported_with_its_place(octets: bytes, good: int | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "damaged.pcap"
    file.write_bytes(octets)
    before: list[CapturedDatagram] = []
    with pytest.raises(CaptureError) as caught:
        take(before, read_capture(file))

    assert str(caught.value).startswith(f"{file}: at offset ")
    assert message in str(caught.value)
    assert good is None or len(before) == good


def take(into: list[CapturedDatagram], source: Iterable[CapturedDatagram]) -> None:
    """Append one by one: what came before an exception counts."""
    for datagram in source:
        into.append(datagram)


@pytest.mark.parametrize("path", ["missing.pcap", ".", "nul\0.pcap"])
def test_files_that_cannot_be_opened(path: str, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="cannot open: "):
        list(read_capture(f"{tmp_path}/{path}"))


@pytest.mark.parametrize(("octets", "header"), [(GOOD, 24), (GOOD_NG, 28)])
def test_a_truncated_file_is_read_up_to_there(octets: bytes, header: int, tmp_path: Path) -> None:
    file = tmp_path / "truncated.pcap"
    ends = {len(octets)}
    for size in range(header, len(octets)):
        file.write_bytes(octets[:size])
        datagrams, problems = read(file)
        whole = 1 if size >= len(octets) - record_size(octets) else 0
        assert len(datagrams) == whole
        assert problems.skipped.total() in (0, 1)
        assert problems.skipped.total() == problems.skipped[Skip.TRUNCATED_FILE]
        if problems.skipped.total() == 0:
            ends.add(size)
    file.write_bytes(gzip.compress(octets)[:-20])
    assert read(file)[1].skipped == {Skip.TRUNCATED_FILE: 1}
    # Only where a record ends can one not see that something is missing.
    assert len(ends) == (3 if header == 24 else 4)


def record_size(octets: bytes) -> int:
    return 16 + len(WHOLE) if octets is GOOD else len(enhanced(0, 1, WHOLE))


def test_a_window_is_refilled_within_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every possible position of a record against the pieces in which the file is read."""
    path = PCAPS / "ovs_netflow5.pcap"
    expected = read(path)[0]
    for size in (1, 7, 16, 1000, 4096):
        monkeypatch.setattr("collector.capture.files.REFILL_BYTES", size)
        assert read(path)[0] == expected


MAGICS = [
    b"\xd4\xc3\xb2\xa1",
    b"\xa1\xb2\x3c\x4d",
    b"\x0a\x0d\x0d\x0a",
    b"\x1f\x8b\x08\x00",
    GOOD[:24],
    GOOD_NG[:48],
    b"",
]


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from(MAGICS), rest=st.binary(max_size=400))
@example(start=GOOD_NG, rest=b"\x0a\x0d\x0d\x0a")
def test_any_bytes_are_a_capture_or_a_capture_error(start: bytes, rest: bytes, tmp_path: Path) -> None:
    file = tmp_path / "any"
    file.write_bytes(start + rest)
    with suppress(CaptureError):
        read(file)


MIXED = [WHOLE, *map(bytes, pieces4()), bytes(ETH / Dot1Q() / ip6()), *map(bytes, pieces6())]
MIXED_NG = section() + interface(ETHERNET) + b"".join(enhanced(0, 7, frame) for frame in MIXED)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    octets=st.sampled_from([pcap(MIXED), pcap(MIXED, order=">"), MIXED_NG]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=8),
)
def test_mutated_captures_never_break_the_reader(
    octets: bytes, changes: list[tuple[float, bytes]], tmp_path: Path
) -> None:
    mutated = bytearray(octets)
    for place, change in changes:
        at = int(place * len(mutated))
        mutated[at : at + len(change)] = change
    file = tmp_path / "mutated"
    file.write_bytes(mutated)
    datagrams: list[CapturedDatagram] = []
    with suppress(CaptureError):
        take(datagrams, read_capture(file))
    for datagram in datagrams:
        assert len(datagram.payload) <= 65_535
        ip_address(datagram.source)
        assert 0 <= datagram.source_port <= 65_535
        assert 0 <= datagram.time_us < 2**62
