"""Two things that CUDA kernels need and numba lacks: arrays at given addresses, and the bits of floats.

Each is an intrinsic, and in numba's simulator, which runs the kernel as Python, a function that does the same.
The type of `like` tells how bits are read: those of a float32, of a float16 by int16, of a bfloat16 by uint16.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numba import config

# of a thread at most: else half as many threads fit. What ptxas spills for it does not grow with the values ahead.
REGISTERS: dict[str, Any] = {} if config.ENABLE_CUDASIM else {"max_registers": 64}  # the simulator has none

if config.ENABLE_CUDASIM:

    def array_at(address: Any, length: Any, like: Any) -> Any:
        memory: Any = (ctypes.c_char * int(length * like.nbytes)).from_address(int(address))
        return np.frombuffer(memory, like.dtype)

    def bits_of(x: Any) -> Any:
        return np.uint32(x.view(np.uint32 if x.dtype == np.float32 else np.uint16))

    def value_of(bits: Any, like: Any) -> Any:
        if like.dtype == np.int16:
            return np.float32(np.uint16(bits).view(np.float16))
        return np.uint32(bits if like.dtype == np.float32 else int(bits) << 16).view(np.float32)

    def rounded(value: Any, like: Any) -> Any:
        if like.dtype == np.uint16:
            bits = int(np.float32(value).view(np.uint32))
            return np.uint32(0x7FC0 if value != value else bits + 0x7FFF + (bits >> 16 & 1) >> 16)
        return bits_of(np.float16(value) if like.dtype == np.int16 else np.float32(value))

    def code_of(bits: Any, like: Any) -> int:
        if like.dtype != np.float32:
            return int(bits)
        with np.errstate(over="ignore"):
            return int(np.float16(value_of(bits, like)).view(np.uint16))

else:
    from llvmlite import ir
    from numba import types
    from numba.cuda.extending import intrinsic
    from numba.cuda.np import arrayobj

    _SHORT, _WORD, _FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()

    def _ptx(builder: Any, instruction: str, given: Any, result: Any, constraint: str) -> Any:
        return builder.asm(ir.FunctionType(result, [given.type]), instruction, constraint, [given], False)

    @intrinsic  # type: ignore[untyped-decorator]
    def array_at(typing: Any, address: Any, length: Any, like: Any) -> Any:
        """The array of so many values of the type of `like` at an address of the device's memory."""
        kind = types.Array(like, 1, "C")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = arrayobj.make_array(kind)(context, builder)
            size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(like)))
            data = builder.inttoptr(arguments[0], array.data.type)
            arrayobj.populate_array(
                array, data=data, shape=(arguments[1],), strides=(size,), itemsize=size, meminfo=None
            )
            return array._getvalue()

        return kind(types.int64, types.int64, like), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def bits_of(typing: Any, x: Any) -> Any:
        """The bits of a value, as uint32."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (given,) = arguments
            return builder.bitcast(given, _WORD) if x is types.float32 else builder.zext(given, _WORD)

        return types.uint32(x), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def value_of(typing: Any, bits: Any, like: Any) -> Any:
        """The value as float32."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            given, _ = arguments
            if like is types.int16:
                return _ptx(builder, "cvt.f32.f16 $0, $1;", builder.trunc(given, _SHORT), _FLOAT, "=f,h")
            if like is types.uint16:
                given = builder.shl(given, ir.Constant(_WORD, 16))
            return builder.bitcast(given, _FLOAT)

        return types.float32(types.uint32, like), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def rounded(typing: Any, value: Any, like: Any) -> Any:
        """The bits of what a float32 rounds to, to the nearest, of ties to the even one."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            given, _ = arguments
            if like is types.int16:
                return builder.zext(_ptx(builder, "cvt.rn.f16.f32 $0, $1;", given, _SHORT, "=h,f"), _WORD)
            if like is types.uint16:  # bfloat16
                return builder.zext(_ptx(builder, "cvt.rn.bf16.f32 $0, $1;", given, _SHORT, "=h,f"), _WORD)
            return builder.bitcast(given, _WORD)

        return types.uint32(types.float32, like), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def code_of(typing: Any, bits: Any, like: Any) -> Any:
        """The bin: the bit pattern of the float16 that a float32 rounds to, of a 16-bit float its own."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            given, _ = arguments
            if like is types.float32:
                half = _ptx(builder, "cvt.rn.f16.f32 $0, $1;", builder.bitcast(given, _FLOAT), _SHORT, "=h,f")
                return builder.zext(half, _WORD)
            return given

        return types.int32(types.uint32, like), generate
