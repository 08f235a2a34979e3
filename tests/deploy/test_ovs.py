"""The lines of deploy/ovs.md, typed into a real Open vSwitch."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .ovs_blocks import Block, Switch, missing_program, read_blocks, running_switch

BLOCKS = read_blocks()
REASON = missing_program()

needs_ovs = pytest.mark.skipif(bool(REASON), reason=REASON)

INPUT = "ipfix(output_port=4294967295)"


@pytest.fixture(scope="module")
def running() -> Iterator[Switch]:
    """One switch for the module.  Its folder's path is short: a unix socket's is limited to 107 octets."""
    with tempfile.TemporaryDirectory(prefix="ovs") as folder, running_switch(Path(folder)) as switch:
        yield switch


@pytest.fixture
def switch(running: Switch) -> Iterator[Switch]:
    """The switch without any exporter, before and after."""
    yield running
    for bridge in ("br-int", "br-ex"):
        for column in ("sflow", "netflow", "ipfix"):
            running.shell(f"ovs-vsctl clear Bridge {bridge} {column}")
    running.shell("ovs-vsctl --all destroy Flow_Sample_Collector_Set")


def run(switch: Switch, name: str) -> str:
    """Run a block as it stands in the page, or skip where it is for another version."""
    block = BLOCKS[name]
    if block.needs and not switch.has_column(block.needs):
        pytest.skip(f"the installed Open vSwitch does not know {block.needs}")
    if block.below and switch.has_column(block.below):
        pytest.skip(f"the installed Open vSwitch knows {block.below}: the block is for older ones")
    return switch.shell(block.lines)


def ipfix_set(switch: Switch) -> str:
    """Name of the block that fits the installed version."""
    return "ipfix-set-3.2" if switch.has_column("template_interval") else "ipfix-set-3.1"


def column(switch: Switch, table: str, name: str, bridge: str = "br-int") -> str:
    return switch.shell(f"ovs-vsctl get {table} {bridge} {name}").strip()


def rows(switch: Switch, table: str) -> int:
    return len(switch.shell(f"ovs-vsctl --bare --columns=_uuid list {table}").split())


@needs_ovs
def test_sflow_is_set_inspected_changed_and_removed(switch: Switch) -> None:
    run(switch, "sflow-set")
    assert column(switch, "sFlow", "agent") == '"192.0.2.11"'
    assert column(switch, "sFlow", "targets") == '["192.0.2.1:6343"]'
    assert [column(switch, "sFlow", name) for name in ("sampling", "polling", "header")] == ["64", "10", "128"]
    assert "sFlow(" in switch.datapath_actions()

    inspected = run(switch, "sflow-inspect")
    assert re.search(r"^sampling +: 64$", inspected, re.MULTILINE)

    run(switch, "sflow-change")
    assert column(switch, "sFlow", "sampling") == "256"

    run(switch, "sflow-remove")
    assert rows(switch, "sFlow") == 0
    assert "sFlow(" not in switch.datapath_actions()


@needs_ovs
def test_setting_again_replaces_the_old_exporter(switch: Switch) -> None:
    run(switch, "sflow-set")
    run(switch, "sflow-set")
    assert rows(switch, "sFlow") == 1


@needs_ovs
def test_sflow_of_the_underlay_bridge_keeps_more_of_the_header(switch: Switch) -> None:
    run(switch, "sflow-underlay")
    assert column(switch, "sFlow", "header", "br-ex") == "256"
    assert column(switch, "Bridge", "sflow") == "[]"


@needs_ovs
def test_netflow_is_set_inspected_changed_and_removed(switch: Switch) -> None:
    run(switch, "netflow-set")
    assert column(switch, "NetFlow", "targets") == '["192.0.2.1:2055"]'
    assert column(switch, "NetFlow", "active_timeout") == "10"
    assert column(switch, "NetFlow", "add_id_to_interface") == "false"

    inspected = run(switch, "netflow-inspect")
    assert re.search(r"^active_timeout +: 10$", inspected, re.MULTILINE)

    run(switch, "netflow-change")
    assert column(switch, "NetFlow", "active_timeout") == "60"

    run(switch, "netflow-remove")
    assert rows(switch, "NetFlow") == 0


@needs_ovs
def test_ipfix_is_set_inspected_changed_and_removed(switch: Switch) -> None:
    run(switch, ipfix_set(switch))
    assert column(switch, "IPFIX", "targets") == '["192.0.2.1:4739"]'
    names = ("sampling", "obs_domain_id", "obs_point_id", "cache_active_timeout", "cache_max_flows")
    assert [column(switch, "IPFIX", name) for name in names] == ["64", "11", "1", "10", "8192"]

    inspected = run(switch, "ipfix-inspect")
    assert "bridge ipfix: flows=0" in inspected

    # Made again, for another purpose: the former one is gone, and what comes in and goes out is sampled.
    run(switch, "ipfix-loss")
    assert column(switch, "IPFIX", "sampling") == "1"
    assert rows(switch, "IPFIX") == 1
    assert run(switch, "ipfix-trace").splitlines()[-1].count("ipfix(") == 2

    run(switch, "ipfix-remove")
    assert rows(switch, "IPFIX") == 0


@needs_ovs
@pytest.mark.parametrize("name", ["ipfix-set-3.1", "ipfix-set-3.2"])
def test_ipfix_samples_the_input_only(switch: Switch, name: str) -> None:
    run(switch, name)
    actions = run(switch, "ipfix-trace").splitlines()[-1]
    assert actions.count("ipfix(") == 1
    assert INPUT in actions


@needs_ovs
def test_the_key_for_output_sampling_is_inverted_before_3_2(switch: Switch) -> None:
    """The page says so: `true` switches off before 3.2, `false` does since; absent is on in both."""
    inverted = not switch.has_column("template_interval")
    run(switch, ipfix_set(switch))
    switch.shell(f"ovs-vsctl set IPFIX br-int other_config:enable-output-sampling={'false' if inverted else 'true'}")
    assert switch.datapath_actions().count("ipfix(") == 2

    switch.shell("ovs-vsctl remove IPFIX br-int other_config enable-output-sampling")
    assert switch.datapath_actions().count("ipfix(") == 2


@needs_ovs
def test_flow_based_ipfix_is_set_inspected_and_removed(switch: Switch) -> None:
    run(switch, "flow-ipfix-set")
    assert "flow_sample(probability=255,collector_set_id=1,obs_domain_id=11,obs_point_id=1" in switch.datapath_actions()

    inspected = run(switch, "flow-ipfix-inspect")
    assert "sample(probability=255,collector_set_id=1" in inspected

    run(switch, "flow-ipfix-remove")
    assert rows(switch, "Flow_Sample_Collector_Set") == 0
    assert rows(switch, "IPFIX") == 0
    assert "flow_sample(" not in switch.datapath_actions()


@needs_ovs
@pytest.mark.parametrize(
    ("name", "table", "targets"),
    [
        ("sflow-two-targets", "sFlow", '["192.0.2.1:6343", "192.0.2.2:6343"]'),
        ("sflow-ipv6", "sFlow", '["[2001:db8::1]:6343"]'),
        ("netflow-ipv6", "NetFlow", '["192.0.2.1:2055", "[2001:db8::1]:2055"]'),
        ("ipfix-ipv6", "IPFIX", '["[2001:db8::1]:4739"]'),
    ],
)
def test_several_targets_and_ipv6(switch: Switch, name: str, table: str, targets: str) -> None:
    run(switch, name)
    assert column(switch, table, "targets") == targets


@needs_ovs
def test_a_target_is_added_and_taken_away(switch: Switch) -> None:
    run(switch, "sflow-set")
    run(switch, "targets-change")
    assert column(switch, "sFlow", "targets") == '["192.0.2.2:6343"]'


@needs_ovs
def test_the_version_is_shown(switch: Switch) -> None:
    assert run(switch, "version").startswith("ovs-vswitchd (Open vSwitch) ")


def test_each_block_of_the_page_is_tested() -> None:
    """A block that no test names would be a line that nobody ever typed."""
    source = Path(__file__).read_text()
    assert [name for name in BLOCKS if f'"{name}"' not in source] == []


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_commands_quote_what_open_vswitch_needs_quoted(block: Block) -> None:
    """Every target is in double quotes inside single ones, so that both the shell and ovs-vsctl read it as written."""
    for address in re.findall(r"\S*[\d\]]:(?:6343|2055|4739)\S*", block.lines):
        assert re.fullmatch(r"""'(targets=)?\[?("[^"]+",?)+\]?'""", address), address
