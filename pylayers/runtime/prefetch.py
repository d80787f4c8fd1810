"""A hint to the processor for loops compiled by Numba: which memory will be needed soon.

A processor looks ahead by itself, but not beyond the end of a page of 4 KB. Where a loop computes much for each
number, as with exponentials, it would wait at each page.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pylayers.runtime.loops import compiled

_LINE = 16  # float32 numbers in a line of the cache


@compiled()
def fetch(array, start, count):
    """Has `count` numbers of a float32 array from `start` on brought to the cache; they may lie beyond its end."""
    for index in range(start, start + count, _LINE):
        _fetch_line(array, index)


@intrinsic
def _fetch_line(typingctx, array, index):
    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (pointer,), kind)
        address = builder.bitcast(builder.gep(data, [arguments[1]]), pointer)
        builder.call(prefetch, [address, number(0), number(3), number(1)])  # to read, to all caches, data
        return context.get_dummy_value()

    return types.void(array, index), generate
