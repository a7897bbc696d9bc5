"""Vector registers as numba's LLVM knows them, for what its loops over arrays cannot keep in registers."""

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def vector_bytes() -> int:
    """Bytes of the widest vector register of this processor; needs numba."""
    from llvmlite.binding import get_host_cpu_features

    features = get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx") else 16


def emitted(typed: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: a function in instructions of LLVM, which only `compiled` functions can call.

    ``typed``: as `numba.extending.intrinsic` takes it: from the types of the arguments to a signature and the function
    that appends the instructions.
    """

    @cache
    def ready() -> Any:
        from numba.extending import intrinsic

        return intrinsic(typed)

    def call(*arguments: Any) -> Any:
        raise TypeError(f"{typed.__name__} can be called in compiled functions only")

    call.ready = ready  # type: ignore[attr-defined]  # for compiled functions that call this one
    return call


class Vectors:
    """Vectors of one kind of float; each method appends an instruction and gives its result.

    ``context, builder``: of numba and llvmlite, as an `emitted` function is given them.
    """

    def __init__(self, context: Any, builder: Any, dtype: Any):
        from llvmlite import ir

        self.builder, self.constant = builder, ir.Constant
        self.n_lanes, self.n_bytes = vector_bytes() * 8 // dtype.bitwidth, dtype.bitwidth // 8
        self.type = ir.VectorType(context.get_value_type(dtype), self.n_lanes)
        self.flags, self.index = ir.IntType(self.n_lanes), ir.IntType(32)
        self.integers = ir.VectorType(ir.IntType(dtype.bitwidth), self.n_lanes)
        self.all_but_sign = ir.Constant(self.integers, [2 ** (dtype.bitwidth - 1) - 1] * self.n_lanes)
        self.no_bits = ir.Constant(self.integers, [0] * self.n_lanes)

    def number(self, value: float) -> Any:
        """The same constant in all lanes."""
        return self.constant(self.type, [float(value)] * self.n_lanes)

    def repeated(self, scalar: Any) -> Any:
        """The same variable in all lanes."""
        lanes = self.number(0)
        for lane in range(self.n_lanes):
            lanes = self.builder.insert_element(lanes, scalar, self.constant(self.index, lane))
        return lanes

    def load(self, memory: Any, index: Any) -> Any:
        """Successive values, the first of them at an index."""
        vector = self.builder.load(self._at(memory, index))
        vector.align = self.n_bytes
        return vector

    def store(self, vector: Any, memory: Any, index: Any) -> None:
        """The reverse of `load`."""
        self.builder.store(vector, self._at(memory, index)).align = self.n_bytes

    def _at(self, memory: Any, index: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(memory, [index]), self.type.as_pointer())

    def where(self, flags: Any, yes: Any, no: Any) -> Any:
        """One or the other, lane by lane."""
        return self.builder.select(flags, yes, no)

    def less(self, a: Any, b: Any) -> Any:
        """Flags of a < b; False where either is NaN."""
        return self.builder.fcmp_ordered("<", a, b)

    def is_nan(self, a: Any) -> Any:
        """Flags of NaN."""
        return self.builder.fcmp_unordered("uno", a, a)

    def integers_of(self, a: Any) -> Any:
        """Signed integers in the order of the floats: the bits, all but the sign turned over where that is set."""
        bits = self.builder.bitcast(a, self.integers)
        return self._turned(bits)

    def floats_of(self, a: Any) -> Any:
        """The reverse of `integers_of`."""
        return self.builder.bitcast(self._turned(a), self.type)

    def _turned(self, bits: Any) -> Any:
        negative = self.builder.icmp_signed("<", bits, self.no_bits)
        return self.builder.select(negative, self.builder.xor(bits, self.all_but_sign), bits)

    def ordered(self, a: Any, b: Any) -> tuple[Any, Any]:
        """The smaller and the larger of two integers in each lane; LLVM makes one instruction of each."""
        a_first = self.builder.icmp_signed("<", a, b)
        return self.where(a_first, a, b), self.where(a_first, b, a)

    def magnitude(self, a: Any) -> Any:
        """Absolute value."""
        return self.where(self.less(a, self.number(0)), self.builder.fneg(a), a)

    def all_of(self, flags: Any) -> Any:
        """Whether flags are up in all lanes."""
        return self.builder.icmp_unsigned("==", self.builder.bitcast(flags, self.flags), self.constant(self.flags, -1))
