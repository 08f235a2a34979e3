"""Big-endian integers inside compiled kernels: read one by one, or moved to columns a run at a time.

Written as `octets[at] << 8 | octets[at + 1]`, a 32-bit read costs four bounds checks, and the compiler may not merge
the loads across them.  Here one check guards one unaligned load, or a whole run of equally spaced ones.  Without
compilation, plain Python does the same.

Callers check `offset + size <= end` once per structure; the check of each read is a second line of defence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from decoders.jit import compiled_as, inline, inline_always

MAPPED = np.uint64(0xFFFF << 32)
"""Low half of the IPv6 form of an IPv4 address, without the address."""


@inline
def swap64(value):
    """Reverse the octets of a uint64: LLVM turns this into one instruction."""
    v = np.uint64(value)
    low = np.uint64(0xFF)
    return (
        (v >> np.uint64(56))
        | ((v >> np.uint64(40)) & (low << np.uint64(8)))
        | ((v >> np.uint64(24)) & (low << np.uint64(16)))
        | ((v >> np.uint64(8)) & (low << np.uint64(24)))
        | ((v << np.uint64(8)) & (low << np.uint64(32)))
        | ((v << np.uint64(24)) & (low << np.uint64(40)))
        | ((v << np.uint64(40)) & (low << np.uint64(48)))
        | (v << np.uint64(56))
    )


def _raw(bits: int) -> Any:
    """Load `bits` from a C-contiguous array of octets as uint64, unchecked.  Only `loader` below may call it."""

    @intrinsic
    def load(_context: Any, octets: Any, _at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, args[0])
            place = builder.gep(array.data, [args[1]])
            value = builder.load(builder.bitcast(place, ir.IntType(bits).as_pointer()), align=1)
            swapped = value if bits == 8 else builder.bswap(value)
            return swapped if bits == 64 else builder.zext(swapped, ir.IntType(64))

        return types.uint64(octets, types.int64), generate

    return load


def loader(size: int) -> Callable[..., np.uint64]:
    """Return a compiled reader of `size` (2, 4 or 8) octets at an offset, as uint64; IndexError outside the array."""
    raw = _raw(size * 8)

    def checked(octets, at):
        if at < 0 or at + size > octets.shape[0]:
            raise IndexError("read outside of the octets")
        return raw(octets, at)

    @compiled_as(checked)
    def plain(octets, at):
        if at < 0 or at + size > octets.shape[0]:
            raise IndexError("read outside of the octets")
        return np.uint64(int.from_bytes(octets[at : at + size].tobytes(), "big"))

    return plain


def _storer() -> Any:
    """Store to a C-contiguous array of unsigned integers by flat index, unchecked.  Only functions below may use it."""

    @intrinsic
    def store(_context: Any, target: Any, _at: Any, _value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, args[0])
            width = signature.args[0].dtype.bitwidth
            value = args[2] if width == 64 else builder.trunc(args[2], ir.IntType(width))
            builder.store(value, builder.gep(array.data, [args[1]]))
            return context.get_dummy_value()

        return types.void(target, types.int64, types.uint64), generate

    return store


_store = _storer()


def _fetcher() -> Any:
    """Load from a C-contiguous array of uint64 by flat index, unchecked.  Only `any_bits` below may use it."""

    @intrinsic
    def fetch(_context: Any, source: Any, _at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, args[0])
            return builder.load(builder.gep(array.data, [args[1]]))

        return types.uint64(source, types.int64), generate

    return fetch


_fetch = _fetcher()


def _filler() -> Callable[..., None]:
    """Return a compiled `fill`: `count` numbers of a C-contiguous array become `value`.

    They lie `step` apart from flat index `first` on.  IndexError if one would be outside; then nothing is written.
    """

    def fill(target, first, count, value, step=1):
        if first < 0 or count < 0 or step < 1 or first + (count - 1) * step >= target.size:
            raise IndexError("write outside of the rows")
        for k in range(count):
            _store(target, first + k * step, np.uint64(value))

    @compiled_as(fill, always=True)
    def plain(target, first, count, value, step=1):
        if first < 0 or count < 0 or step < 1 or first + (count - 1) * step >= target.size:
            raise IndexError("write outside of the rows")
        target.reshape(-1)[first : first + count * step : step] = value

    return plain


fill = _filler()


def _gatherer() -> Callable[..., np.uint64]:
    """Return a compiled `any_bits`: all bits set in `count` uint64 of a C-contiguous array from flat index `first` on.

    IndexError if they are not all within the array.
    """

    def any_bits(source, first, count):
        if first < 0 or count < 0 or first + count > source.size:
            raise IndexError("read outside of the rows")
        bits = np.uint64(0)
        for k in range(count):
            bits |= _fetch(source, first + k)
        return bits

    @compiled_as(any_bits, always=True)
    def plain(source, first, count):
        if first < 0 or count < 0 or first + count > source.size:
            raise IndexError("read outside of the rows")
        return np.bitwise_or.reduce(source.reshape(-1)[first : first + count])

    return plain


any_bits = _gatherer()


@inline
def _check(octets, at, size, stride, n, target, column, first, step):
    """Raise IndexError unless `n` > 0 reads of `size` octets and as many writes all lie within the arrays."""
    if at < 0 or stride < 0 or at + (n - 1) * stride + size > octets.shape[0]:
        raise IndexError("read outside of the octets")
    if column < 0 or column >= target.shape[0] or first < 0 or step < 0 or first + (n - 1) * step >= target.shape[1]:
        raise IndexError("write outside of the rows")


def mover(size: int) -> Callable[..., None]:
    """Return a compiled move of `n` numbers of `size` octets (1, 2, 4, 8; 6 for MAC addresses).

    They lie `stride` apart from `at` on, and go to places `step` apart from `first` on in row `column` of a
    two-dimensional array of unsigned integers that are at least as wide.  IndexError if any read or write would be
    outside; then nothing is moved.
    """
    if size == 6:
        high, low = _raw(16), _raw(32)

        @inline_always
        def read(octets, at):
            return (high(octets, at) << np.uint64(32)) | low(octets, at + 2)
    else:
        read = _raw(size * 8)

    def move(octets, at, stride, n, target, column, first, step):
        if n > 0:
            _check(octets, at, size, stride, n, target, column, first, step)
        to = column * target.shape[1] + first
        for k in range(n):
            _store(target, to + k * step, read(octets, at + k * stride))

    @compiled_as(move, always=True)
    def plain(octets, at, stride, n, target, column, first, step):
        if n > 0:
            _check(octets, at, size, stride, n, target, column, first, step)
        for k in range(n):
            here = at + k * stride
            target[column, first + k * step] = int.from_bytes(octets[here : here + size].tobytes(), "big")

    return plain


def ipv4_mover() -> Callable[..., None]:
    """Return the same as `mover` for IPv4 addresses to places of two words: ::ffff:a.b.c.d in network order."""
    read = _raw(32)

    def move(octets, at, stride, n, target, column, first, step):
        if n > 0:
            _check(octets, at, 4, stride, n, target, column, first, step)
        to = 2 * (column * target.shape[1] + first)
        for k in range(n):
            _store(target, to + 2 * k * step, np.uint64(0))
            _store(target, to + 2 * k * step + 1, swap64(MAPPED | read(octets, at + k * stride)))

    @compiled_as(move, always=True)
    def plain(octets, at, stride, n, target, column, first, step):
        if n > 0:
            _check(octets, at, 4, stride, n, target, column, first, step)
        for k in range(n):
            here = at + k * stride
            mapped = b"\0\0\xff\xff" + octets[here : here + 4].tobytes()
            target[column, first + k * step] = (0, int.from_bytes(mapped, "little"))

    return plain


def converter(size: int, convert: Callable[..., Any]) -> Callable[..., None]:
    """Return the same as `mover` (sizes 1, 2, 4, 8): what is stored is `convert(number, *known)`, an uint64."""
    read = _raw(size * 8)

    def move(octets, at, stride, n, target, column, first, step, *known):
        if n > 0:
            _check(octets, at, size, stride, n, target, column, first, step)
        to = column * target.shape[1] + first
        for k in range(n):
            _store(target, to + k * step, convert(read(octets, at + k * stride), *known))

    @compiled_as(move, always=True)
    def plain(octets, at, stride, n, target, column, first, step, *known):
        if n > 0:
            _check(octets, at, size, stride, n, target, column, first, step)
        for k in range(n):
            here = at + k * stride
            number = np.uint64(int.from_bytes(octets[here : here + size].tobytes(), "big"))
            target[column, first + k * step] = convert(number, *known)

    return plain


_load16 = loader(2)
_load32 = loader(4)
_load64 = loader(8)
move8, move16, move32, move64 = mover(1), mover(2), mover(4), mover(8)
move_mac = mover(6)
move_ipv4 = ipv4_mover()


@inline
def u16(octets, at):
    """Read unsigned 16 bits at offset `at`, as int64."""
    return np.int64(_load16(octets, at))


@inline
def u32(octets, at):
    """Read unsigned 32 bits at offset `at`, as int64."""
    return np.int64(_load32(octets, at))


@inline
def u64(octets, at):
    """Read unsigned 64 bits at offset `at`, as uint64."""
    return _load64(octets, at)


@inline
def mac(octets, at):
    """Read 48 bits at offset `at`, as uint64."""
    return (_load16(octets, at) << np.uint64(32)) | _load32(octets, at + 2)


@inline
def all_zero(octets, at, end):
    """Return True if all octets are zero: padding."""
    for i in range(at, end):  # noqa: SIM110  (kernels have no generators)
        if octets[i] != 0:
            return False
    return True
