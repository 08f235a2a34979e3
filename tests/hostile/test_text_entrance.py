"""The whole service is sent nasty names: what it stores, tells and logs is harmless, and it counts them."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from schemas.text import clean
from tests.decoders.sflow.support import counters_sample, datagram, interface_counters, item, padded, words
from tests.hostile.nasty import NASTY, harmless
from tests.service import payloads, running, send

STATED = [text for text in NASTY if len(text.encode()) <= 255]


def counters(number: int, name: bytes) -> bytes:
    """The counters of one interface, and how it is called (structure 1005)."""
    named = item(1005, words(len(name)) + padded(name))
    sample = counters_sample(interface_counters(number), named, source=(0, number))
    return datagram(sample, sequence=number, uptime=number * 1000)


def test_names_from_the_network_are_cleaned_before_they_are_stored(tmp_path: Path) -> None:
    names = [text.encode() for text in STATED] + [b"\xff\xfe", b"twin", b"twin ", b"\0twin\0"]
    file = tmp_path / "static.toml"
    file.write_text('[[interface]]\nmac = "52:54:00:00:00:01"\nvm = "web"\n')
    with running(tmp_path, f'inventory.static=[{{"file": "{file}"}}]') as service:
        send(service.udp[0], payloads("crafted_sflow_nasty_vm"), "127.67.0.1")
        send(service.udp[0], [counters(number, name) for number, name in enumerate(names, 1)], "127.67.0.2")
        rows = "SELECT count() AS n FROM interface_counters WHERE exporter = toIPv6('::ffff:127.67.0.2')"
        assert service.wait_for_rows(rows, len(names)) == len(names)
        stored = service.query("SELECT if_index, if_name FROM interface_counters WHERE if_index > 0 ORDER BY if_index")
        assert [row["if_name"] for row in stored] == [clean(name) for name in names]
        assert service.wait_for_rows("SELECT count() AS n FROM inventory WHERE vm LIKE 'ev%'", 1) >= 1
        assert {row["vm"] for row in service.query("SELECT vm FROM inventory WHERE vm LIKE 'ev%'")} == {"ev\\x1b[31mil"}
        unclean = sum(clean(name).encode() != name for name in names)
        assert service.metric("vmflow_names_cleaned_total") == unclean + len(["the VM of the capture"])
        for path in ("/health", "/metrics"):
            assert harmless(service.get(path), but="\n")
        with urllib.request.urlopen(
            f"{service.ready['sql']}/?query=SELECT+%27a%0Db%27&query_id=x%0D%0AX-Evil:1"
        ) as answer:
            assert "X-Evil" not in answer.headers
        assert service.stop() == 0
        assert all(harmless(json.dumps(line, ensure_ascii=False)) for line in service.log)
