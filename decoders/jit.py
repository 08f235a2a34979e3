"""How kernels are compiled: the decorators, and kernels that run uncompiled until their machine code is there.

numba would optimise every helper by itself, too, make machine code of it and a way to call it from Python, although
only kernels are called.  Here a helper stays a plain function for Python, and for numba it is intermediate code that
becomes a part of each kernel that calls it: half the time, and two thirds of the memory (`docs/performance.md`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, Flags
from numba.core.datamodel.models import OpaqueModel
from numba.extending import register_model

from decoders import kernel_cache

Compiled = Callable[..., Any]
"""A kernel.  Its argument types are checked by numba, which refuses what it cannot compile."""

INTERPRETED = bool(getattr(numba.config, "DISABLE_JIT"))  # noqa: B009 - its stubs do not know it
"""Whether nothing is compiled: `NUMBA_DISABLE_JIT=1`, for fuzzing and debugging."""

kernel_cache.choose_processor()


class _Part(JITCodeLibrary):
    """The code of a helper, to be optimised as a part of kernels."""

    environment: tuple[str, Any] | None = None
    """Name and contents of what its code refers to, such as the texts of its errors."""

    def _optimize_functions(self, ll_module: Any) -> None:
        """Make the functions small, no more: each becomes a part of several others, and is optimised there."""
        ll_module.data_layout = self._codegen._data_layout
        for function in ll_module.functions:
            passes, builder = self._codegen._function_pass_manager(opt=1)  # type: ignore[no-untyped-call]
            passes.run(function, builder)

    def finalize(self) -> None:
        """Leave the code as it is; a kernel links the helpers of this one, too."""
        self._raise_if_finalized()  # type: ignore[no-untyped-call]
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0: Python cannot call it."""
        return 0

    @property
    def codegen(self) -> _Part:
        """Return what numba calls `set_env` of: the real one cannot set what is in no machine code yet."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Keep it for the kernels."""
        self.environment = name, environment


class _Whole(JITCodeLibrary):
    """The code of a kernel, with all the helpers in it."""

    def finalize(self) -> None:
        """Link all parts once, optimise, and make machine code."""
        parts = dict.fromkeys(self._linking_libraries)
        for part in list(parts):
            _collect(part, parts)
        self._linking_libraries = list(parts)
        super().finalize()  # type: ignore[no-untyped-call]
        for part in parts:
            name, environment = getattr(part, "environment", None) or ("", None)
            if name and self._codegen._engine.get_global_value_address(name):  # else it is optimised away
                self._codegen.set_env(name, environment)  # type: ignore[attr-defined]


def _collect(part: Any, parts: dict[Any, None]) -> None:
    if isinstance(part, _Part):
        for inner in part._linking_libraries:
            if inner not in parts:
                parts[inner] = None
                _collect(inner, parts)


class _Flags(Flags):
    """numba's flags, read at once: it compares them at each look-up of an operator, which took a tenth of all time."""

    _defaults = {name: option.default for name, option in Flags.options.items()}  # noqa: RUF012 - not changed

    def values(self) -> dict[str, Any]:
        """Return all flags by their names."""
        return self._defaults | self._values


class _Compiler(Compiler):
    """numba's compiler, with a library of ours."""

    library: type[JITCodeLibrary]
    count = 0

    def __init__(
        self, typing: Any, target: Any, library: Any, args: Any, result: Any, flags: Any, variables: Any
    ) -> None:
        if library is None:
            _Compiler.count += 1
            library = self.library(target.codegen(), f"{self.library.__name__}{_Compiler.count}")
            library.enable_object_caching()
        super().__init__(typing, target, library, args, result, _Flags(flags), variables)  # type: ignore[no-untyped-call]


class _PartCompiler(_Compiler):
    library = _Part


class _WholeCompiler(_Compiler):
    library = _Whole


def _njit(compiler: type[_Compiler], boundscheck: bool = True, **options: Any) -> Callable[..., Any]:
    """Compile with what all kernels have in common, and `options`, some of which numba's stubs lack."""
    make: Any = numba.njit
    decorator: Callable[..., Any] = make(
        nogil=True,
        boundscheck=boundscheck,
        error_model="numpy",
        no_cfunc_wrapper=True,
        pipeline_class=compiler,
        **options,
    )
    return decorator


class _PartType(types.Dispatcher):
    """The type of a helper.  numba would compile it again for each constant that it is called with."""

    def get_call_type(self, context: Any, args: Any, kws: Any) -> Any:
        """Return the signature for arguments of these types, constants being of the type that variables have."""
        unliteral: Callable[[Any], Any] = types.unliteral
        plain = {name: unliteral(kind) for name, kind in kws.items()}
        return super().get_call_type(context, tuple(map(unliteral, args)), plain)


register_model(_PartType)(OpaqueModel)


def _silent(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as plain Python that does not warn, as machine code does not: hashes wrap on purpose."""
    silent: Callable[..., Any] = np.errstate(all="ignore")(function)
    return silent


class Kernel:
    """A compiled function.  While `waiting`, it runs as plain Python where there is no machine code for it yet."""

    def __init__(self, function: Callable[..., Any], dispatcher: Any) -> None:
        self.py_func = function
        self._uncompiled = _silent(function)
        self._cache = dispatcher._cache = kernel_cache.KernelCache(function)
        self._dispatcher = dispatcher
        self._numba_type_ = types.Dispatcher(dispatcher)
        """How numba types it where another kernel calls it."""

    def __call__(self, *arguments: Any) -> Any:
        if _waiting and not self._ready_for(arguments):
            return self._uncompiled(*arguments)
        return self._dispatcher(*arguments)

    def _ready_for(self, arguments: tuple[Any, ...]) -> bool:
        dispatcher = self._dispatcher
        return tuple(map(dispatcher.typeof_pyval, arguments)) in dispatcher.overloads

    @property
    def ready(self) -> bool:
        """Whether there is machine code for some types of arguments."""
        return bool(self._dispatcher.overloads)

    def load(self) -> None:
        """Load what is new in the cache."""
        for signature in self._cache.signatures():
            self._dispatcher.compile(signature)

    @property
    def cached(self) -> bool:
        """Whether there is machine code in the cache, whole."""
        return self._cache.whole()


_KERNELS: list[Kernel] = []
_PARTS: list[Any] = []
"""What compiles the helpers: their types refer to it weakly."""
_waiting = False


def wait_for_kernels(waiting: bool) -> None:
    """Run kernels uncompiled where there is no machine code yet, instead of compiling it, until this is undone."""
    global _waiting  # noqa: PLW0603 - of the process, as are the kernels
    _waiting = waiting


def waiting() -> bool:
    """Return whether kernels run uncompiled where there is no machine code yet."""
    return _waiting


def load() -> None:
    """Load what is in the cache and not loaded yet."""
    for one in _KERNELS:
        one.load()


def cached_kernels() -> tuple[int, int]:
    """Return how many kernels are in the cache, whole, and how many the imported modules have."""
    return sum(kernel.cached for kernel in _KERNELS), len(_KERNELS)


def cached() -> bool:
    """Return whether all kernels are in the cache, whole."""
    have, need = cached_kernels()
    return have == need


def progress() -> tuple[int, int]:
    """Return how many kernels are compiled or loaded so far, and how many the imported modules have."""
    return sum(kernel.ready for kernel in _KERNELS), len(_KERNELS)


def kernel(function: Callable[..., Any]) -> Compiled:
    """Compile `function`: releases the GIL, keeps array bounds checks, is cached on disk.

    With `NUMBA_DISABLE_JIT=1` the function runs as plain Python, for fuzzing and debugging.
    """
    return _kernel(function, boundscheck=True)


def unchecked_kernel(function: Callable[..., Any]) -> Compiled:
    """Compile as `kernel` does, without array bounds checks: for parts that are `inline_unchecked`."""
    return _kernel(function, boundscheck=False)


def _kernel(function: Callable[..., Any], *, boundscheck: bool) -> Compiled:
    if INTERPRETED:
        return _silent(function)
    dispatcher = _njit(_WholeCompiler, boundscheck)(function)
    made = Kernel(function, dispatcher)
    _KERNELS.append(made)
    return made


def inline(function: Callable[..., Any]) -> Compiled:
    """Make `function` a helper that kernels call.

    It is compiled without reference counts, whose updates would cost more than most helpers do: it may use arrays that
    it gets, but not create one.  The kernel that calls it keeps references to them all.
    """
    return _part(function, function)


def inline_always(function: Callable[..., Any]) -> Compiled:
    """Make a helper as `inline` does, but always as part of the caller.

    For the parts of a large kernel: a call would copy every array of every argument, some hundred words.
    """
    return _part(function, function, forceinline=True)


def inline_unchecked(function: Callable[..., Any]) -> Compiled:
    """Make a helper as `inline_always` does, without array bounds checks: for look-ups in arrays that vmflow made.

    The caller of the kernel must have checked that all indices in them lie within the arrays that they index.
    """
    return _part(function, function, boundscheck=False, forceinline=True)


def compiled_as(function: Callable[..., Any], *, always: bool = False) -> Callable[[Callable[..., Any]], Compiled]:
    """Have kernels call `function` where plain Python calls what is decorated; `always`: as part of the caller."""
    return lambda plain: _part(plain, function, **({"forceinline": True} if always else {}))


def _part(plain: Callable[..., Any], function: Callable[..., Any], **options: Any) -> Compiled:
    if not INTERPRETED:
        dispatcher = _njit(_PartCompiler, no_cpython_wrapper=True, _nrt=False, **options)(function)
        _PARTS.append(dispatcher)
        # numba asks values of other types than its own for this.
        setattr(plain, "_numba_type_", _PartType(dispatcher))  # noqa: B010 - functions have no such attribute
    return plain
