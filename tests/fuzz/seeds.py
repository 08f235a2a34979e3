"""First inputs of the fuzzer, from the captures of real exporters."""

from __future__ import annotations

from pathlib import Path

from tests.decoders.netflow.support import (
    BASE,
    OVS,
    V,
    base,
    in_set,
    ipfix,
    options_template,
    record5,
    template,
    v5,
    v9,
)
from tests.decoders.support import payloads
from tests.fuzz.oracles import pack

STEMS = {
    "sflow": ("ovs_sflow_mixed", "ovs_sflow_vlan", "ovs_sflow_libvirt", "pmacct_sfprobe_s16"),
    "legacy": ("softflowd_v5", "ovs_netflow5", "fprobe_v5"),
    "netflow9": ("softflowd_v9", "pmacct_nfprobe_v9"),
    "ipfix": ("softflowd_ipfix", "pmacct_ipfix", "ovs_ipfix_tunnel"),
}
PER_CAPTURE = 6
HEADERS = 24


def write(kind: str, folder: Path) -> None:
    """Write the inputs of a harness as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, octets in enumerate(_inputs(kind)):
        folder.joinpath(f"seed-{number:03}").write_bytes(octets)


def _inputs(kind: str) -> list[bytes]:
    if kind == "header":
        return [pack([b"\1" + frame]) for frame in _frames()]
    found = [pack([one[0]]) for stem in STEMS[kind] for one in payloads(stem)[:PER_CAPTURE]]
    found += [pack([one[0] for one in payloads(stem)[:2]]) for stem in STEMS[kind]]
    return found + [pack(list(messages)) for messages in _by_hand(kind)]


def _by_hand(kind: str) -> list[tuple[bytes, ...]]:
    """What no capture shows: data before its template, options, fields of variable length, enterprise fields."""
    if kind == "legacy":
        return [(v5(record5(), record5(packets=0)), v5(record5(), sequence=2))]
    if kind not in ("netflow9", "ipfix"):
        return []
    version = 10 if kind == "ipfix" else 9
    message = ipfix if kind == "ipfix" else v9
    known = template(256, BASE, version=version)
    data = in_set(256, base(), base(last=2))
    options = options_template(257, [(1, 4)], [(34, 4), (35, 1)], version=version)
    found = [
        (message(known, data), message(data, sequence=2)),
        (message(data), message(known, sequence=1)),
        (message(options, in_set(257, b"\0\0\0\1\0\0\0\x40\1")), message(known, data, sequence=1)),
    ]
    if kind == "ipfix":
        text = template(258, [*BASE, (82, V), (OVS & 0x7FFF, 4, OVS)])
        found.append((ipfix(text, in_set(258, base() + b"\4eth0" + bytes(4), base() + b"\xff\0\4eth1" + bytes(4))),))
    return found


def _frames() -> list[bytes]:
    """Sampled headers: each stands in its datagram behind the MACs 52:54:00 or 02:… of the laboratory's guests."""
    found: list[bytes] = []
    for stem in STEMS["sflow"]:
        for octets, *_ in payloads(stem)[:PER_CAPTURE]:
            at = octets.find(b"\0\0\0\1\0\0\0", 60)
            if at > 0:
                found.append(octets[at + 24 : at + 24 + 128])
    return found[:HEADERS] + _tunnels()


def _tunnels() -> list[bytes]:
    """Tunnel in tunnel, tags, extension headers."""
    ethernet = bytes.fromhex("020000000002020000000001")
    udp = bytes.fromhex("30390035001c0000") + bytes(20)
    inner4 = bytes.fromhex("4500003000010000401100000a0000010a000002") + udp
    vxlan = ethernet + b"\x08\0" + bytes.fromhex("450000640001000040110000c0000201c0000202")
    vxlan += bytes.fromhex("303912b5005000000800000000002a00") + ethernet + b"\x08\0" + inner4
    gre = ethernet + b"\x08\0" + bytes.fromhex("4500006400010000402f0000c0000201c000020200000800") + inner4
    ipv6 = ethernet + b"\x86\xdd" + bytes.fromhex("6000000000300040") + bytes(31) + b"\1"
    ipv6 += bytes.fromhex("3c000000000000001100000000000000") + udp
    tagged = ethernet + bytes.fromhex("8100002a88a8000b8847000641ff") + inner4
    arp = ethernet + bytes.fromhex("08060001080006040001") + bytes(20)
    return [vxlan, gre, ipv6, tagged, arp]
