"""Vector registers as LLVM knows them, and terms of the CRPS in them: loops of numba cannot keep members there."""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np


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


@lru_cache(maxsize=64)
def sorting_network(n: int) -> tuple[tuple[int, int], ...]:
    """Comparators (i < j) of Batcher's merge exchange: Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M."""
    comparators = []
    top = 1 << max((n - 1).bit_length() - 1, 0)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            comparators += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return tuple(comparators)


def crps_terms_of_vector(strip: int, *, careful: bool) -> Callable[..., Any]:
    """What `emitted` makes a function of both terms of the CRPS of a vector of points, in strips of so many.

    Its arguments: members (a tuple of so many), their values in one row, the index of the first point's first and
    how far the next is, the floor, the observations of a strip, the lane of the first point in it, and the terms
    (3, lane) to be filled: sums of ``|x_i - y|`` and of ``(2 i - n + 1) x_(i)``, and if ``careful`` the number n of
    members that are not NaN. It tells whether all members are finite wherever there is an observation.
    """

    def typed(typing_context, members, values, first, step, floor, truth, lane, terms):
        from numba import types

        def code(context, builder, signature, arguments):
            _, _, index, step_to_next, lowest, _, to, _ = arguments
            memory = [context.make_array(signature.args[k])(context, builder, arguments[k]).data for k in (1, 5, 7)]
            vectors = Vectors(context, builder, values.dtype)
            observed, lowest = vectors.load(memory[1], to), vectors.repeated(lowest)
            rows = []
            for _ in range(len(members)):
                value = vectors.load(memory[0], index)
                value = vectors.where(vectors.less(value, lowest), lowest, value)
                rows.append(builder.fsub(value, observed))
                index = builder.add(index, step_to_next)
            found = (_careful_sums if careful else _plain_sums)(vectors, rows)
            for k, term in enumerate(found):
                vectors.store(term, memory[2], builder.add(to, to.type(k * strip)))
            finite = vectors.less(found[0], vectors.number(np.inf))
            return vectors.all_of(builder.or_(finite, vectors.is_nan(observed)))

        return types.boolean(members, values, first, step, floor, truth, lane, terms), code

    return typed


def _plain_sums(vectors: Vectors, rows: list) -> list:
    """Both sums, of rows that are all there."""
    n, add = len(rows), vectors.builder.fadd
    distance = _sum_in_pairs(add, [vectors.magnitude(row) for row in rows])
    rows, spread = _sorted_rows(vectors, rows), vectors.number(0)
    for i in range(n // 2):
        apart = vectors.builder.fsub(rows[n - 1 - i], rows[i])
        spread = add(spread, vectors.builder.fmul(vectors.number(n - 1 - 2 * i), apart))
    return [distance, spread]


def _careful_sums(vectors: Vectors, rows: list) -> list:
    """Both sums of what is not NaN, and its number; NaN sorts as inf, beyond what is counted."""
    add, zero, one = vectors.builder.fadd, vectors.number(0), vectors.number(1)
    gone = [vectors.is_nan(row) for row in rows]
    left = _sum_in_pairs(add, [vectors.where(nan, zero, one) for nan in gone])
    pairs = list(zip(gone, rows, strict=True))
    distance = _sum_in_pairs(add, [vectors.where(nan, zero, vectors.magnitude(row)) for nan, row in pairs])
    rows, spread = [vectors.where(nan, vectors.number(np.inf), row) for nan, row in pairs], zero
    for i, row in enumerate(_sorted_rows(vectors, rows)):
        weight = vectors.builder.fsub(vectors.number(2 * i + 1), left)
        term = vectors.where(vectors.less(vectors.number(i), left), vectors.builder.fmul(weight, row), zero)
        spread = add(spread, term)
    return [distance, spread, left]


def _sorted_rows(vectors: Vectors, rows: list) -> list:
    # As integers: the least and the largest of two take fewer steps of a processor than those of floats.
    rows = [vectors.integers_of(row) for row in rows]
    for i, j in sorting_network(len(rows)):
        rows[i], rows[j] = vectors.ordered(rows[i], rows[j])
    return [vectors.floats_of(row) for row in rows]


def _sum_in_pairs(add: Callable[..., Any], terms: list) -> Any:
    while len(terms) > 1:
        terms = [add(*terms[i : i + 2]) if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)]
    return terms[0]
