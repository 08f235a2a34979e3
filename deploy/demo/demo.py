"""`make demo`: the service, real Open vSwitch exports, and what SQL shows of them.

Runs the commands that a user would type, and prints each.  The service runs until Ctrl-C.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DATA = ROOT / "data" / "demo"
HEALTH = "http://127.0.0.1:8080/health"
"""Requested without a check of its scheme (B310 of bandit): it is a constant."""
START_SECONDS = 300
"""The first start compiles the decoders."""

CAPTURES = (
    "ovs_sflow_mixed",
    "ovs_sflow_tcp_udp_s64",
    "ovs_sflow_vlan",
    "ovs_netflow5",
    "ovs_ipfix_input_only",
    "ovs_ipfix_tunnel",
)

EXPORTERS = """
SELECT exporter, protocol, count() AS rows, sum(packets_estimated) AS packets,
       formatReadableSize(sum(bytes_estimated)) AS volume, min(flow_start) AS first, max(flow_end) AS last
FROM flows GROUP BY exporter, protocol ORDER BY rows DESC
"""
PAIRS = """
SELECT src_ip AS source, dst_ip AS destination, sum(packets_estimated) AS packets,
       formatReadableSize(sum(bytes_estimated)) AS volume, count() AS rows
FROM flows WHERE protocol = 'sflow5' AND ip_protocol > 0
GROUP BY source, destination ORDER BY sum(bytes_estimated) DESC LIMIT 10
"""


def main() -> int:
    """Run the demo.  Returns the exit code: 0 after Ctrl-C, 1 if a step failed."""
    service_command = ["run", "--set", f"store.url=chdb://{DATA / 'store'}"]
    if answers():
        print("Something answers on 127.0.0.1:8080 already: stop it first (another vmflow?)", file=sys.stderr)
        return 1
    print(shown(service_command), flush=True)
    service = subprocess.Popen([str(BIN / "vmflow"), *service_command], cwd=ROOT)  # noqa: S603
    try:
        if not wait_until_ready(service):
            return 1
        captures = [str(Path("fixtures/pcaps") / f"{name}.pcap") for name in CAPTURES]
        run(["replay", *captures, "--to", "127.0.0.1", "--rate", "1000"])
        time.sleep(2.5)
        print("\nWho exported:")
        run(["query", EXPORTERS])
        print("\nThe busiest address pairs (sFlow, estimated from samples, each switch's sighting counted):")
        run(["query", PAIRS])
        print(TOLD.format(data=DATA.relative_to(ROOT)), flush=True)
        return service.wait()
    except subprocess.CalledProcessError as error:
        print(f"this step failed with exit code {error.returncode}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        stop(service)


TOLD = """
The service is running.
  data       {data}
  SQL        vmflow query 'SELECT …'
             curl 'http://127.0.0.1:8123/?database=vmflow' -d 'SELECT count() FROM flows'
  metrics    http://127.0.0.1:8080/metrics     health  http://127.0.0.1:8080/health
  exports    UDP 6343, 2055 and 4739 on 127.0.0.1: any protocol on any port (deploy/ovs.md has the ovs-vsctl lines)
Ctrl-C stops it."""


def shown(command: list[str]) -> str:
    """Return a command as a user would type it."""
    return "$ vmflow " + " ".join(shlex.quote(" ".join(part.split())) for part in command)


def run(command: list[str]) -> None:
    """Print a command and run it to its end."""
    print(shown(command), flush=True)
    subprocess.run([str(BIN / "vmflow"), *command], cwd=ROOT, check=True)  # noqa: S603


def answers() -> dict[str, object] | None:
    """Return what /health reports, or None without an answer."""
    try:
        with urllib.request.urlopen(HEALTH, timeout=2) as response:  # nosec B310
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))
    except (OSError, ValueError):
        return None


def wait_until_ready(service: subprocess.Popen[bytes]) -> bool:
    """Wait for the service to take datagrams; False, with a message, if it ended or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if service.poll() is not None:
            print("the service did not start; its message is above", file=sys.stderr)
            return False
        health = answers()
        if health is not None and health["status"] == "ok":
            return True
        time.sleep(0.2)
    print(f"the service was not ready within {START_SECONDS} s", file=sys.stderr)
    return False


def stop(service: subprocess.Popen[bytes]) -> None:
    """Stop the service after it has drained its queues."""
    if service.poll() is None:
        service.send_signal(signal.SIGTERM)
        try:
            service.wait(30)
        except subprocess.TimeoutExpired:
            service.kill()


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
