"""The operator's rules for exporters, looked up for many addresses at once instead of in a loop over new exporters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network

import numpy as np
from numpy.typing import NDArray

NONE = -1
"""The answer for an address that no rule names."""

SINGLE = 128
"""Length of a prefix that is one address."""

_HALF = 2**64 - 1
_HIGH_FACTOR, _LOW_FACTOR = 0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F


@dataclass(frozen=True, slots=True)
class ExporterRule:
    """The operator's rule for the exporters in `network` (the first rule that matches counts)."""

    network: IPv6Network
    """IPv4 networks are given in their mapped form, `::ffff:192.0.2.0/120`."""
    allowed: bool = True
    sampling_rate: int = 0
    """One in this many packets, instead of what the exporter states; 0 = as the exporter states."""
    version: int = 0
    """Only for streams of this version, as in their key; 0 = for all."""
    one_port: bool = False
    """NetFlow and IPFIX of all ports of an address are one stream (by domain)."""


@dataclass(frozen=True, slots=True)
class _Prefixes:
    """All rules of one prefix length, by the hash of their networks."""

    mask: NDArray[np.uint64]
    """[2]"""
    hashes: NDArray[np.uint64]
    """[n], in order, all different."""
    networks: NDArray[np.uint64]
    """[n, 2]"""
    rules: NDArray[np.int64]
    """[n]"""


class RuleTable:
    """Finds the first rule of each address: one search per prefix length, whatever the number of rules."""

    def __init__(self, rules: Sequence[ExporterRule], wanted: Callable[[ExporterRule], bool] | None = None) -> None:
        """Index the rules; with `wanted`, only those for which it is true are found; they keep their numbers."""
        by_length: dict[int, dict[tuple[int, int], int]] = {}
        for number, rule in enumerate(rules):
            if wanted is None or wanted(rule):
                network = int(rule.network.network_address)
                by_length.setdefault(rule.network.prefixlen, {}).setdefault((network >> 64, network & _HALF), number)
        self._prefixes = [_prefixes(length, networks) for length, networks in by_length.items()]

    def __bool__(self) -> bool:
        return bool(self._prefixes)

    def first(self, address: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the number of the first rule for each address ([n, 2] halves), NONE where no rule names it; [n]."""
        found = np.full(len(address), np.iinfo(np.int64).max)
        for prefixes in self._prefixes:
            masked = address & prefixes.mask
            hashes = _hash(masked)
            at = np.minimum(np.searchsorted(prefixes.hashes, hashes), len(prefixes.hashes) - 1)
            same = (prefixes.networks[at] == masked).all(axis=1)
            found[same] = np.minimum(found[same], prefixes.rules[at[same]])
        found[found == np.iinfo(np.int64).max] = NONE
        return found


def _prefixes(length: int, networks: dict[tuple[int, int], int]) -> _Prefixes:
    mask = ((1 << length) - 1) << (128 - length)
    halves = np.array(list(networks), np.uint64).reshape(-1, 2)
    hashes = _hash(halves)
    order = np.argsort(hashes)
    return _Prefixes(
        np.array([mask >> 64, mask & _HALF], np.uint64),
        hashes[order],
        halves[order],
        np.array(list(networks.values()), np.int64)[order],
    )


def _hash(halves: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash networks of one length, [n, 2] -> [n].  A bijection of either half where the other is the same."""
    with np.errstate(over="ignore"):
        mixed: NDArray[np.uint64] = halves[:, 0] * np.uint64(_HIGH_FACTOR) ^ halves[:, 1] * np.uint64(_LOW_FACTOR)
    return mixed
