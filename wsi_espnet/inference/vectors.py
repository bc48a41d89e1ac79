"""Sums of products that stay in a processor's registers: what numba would not make of loops, in LLVM's own terms.

Kernels call these like any other function, and numba compiles them together. Places are counted in values from an
array's first one. As elsewhere in kernels nobody looks whether they lie in the array, unless numba is asked to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, overload
from torch import Tensor

from wsi_espnet.inference.kernels import Vector

SHORT = 8
"""Values of fp32 in the vectors of `mapping` and of single outputs: as many as AVX2 takes at a time."""

_ALONE = 8
"""Operations that it takes to add up a vector, and to load and store what came of it."""

_FUSED = ("contract",)
"""A product and a sum may be one operation."""

_FLOAT, _INT, _INDEX = ir.FloatType(), ir.IntType(32), types.intp


@functools.cache
def lanes() -> int:
    """Values of fp32 in this processor's vectors, as far as this module makes use of them."""
    return 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8


Pair = tuple[Vector, Vector]
Sizes = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights (..., rows, inputs, outputs) as `multiply` wants them.

    Attributes
    ----------
    wides
        (..., rows, inputs, outputs that fill vectors, with zeros perhaps) float32.
    rests
        (..., rows, other outputs, inputs): those that take less time one by one than in a vector that they do not fill.
    outputs
        How many there are, without zeros.
    """

    wides: Vector
    rests: Vector
    outputs: int

    @classmethod
    def of(cls, weights: Vector) -> Weights:
        """Of (..., rows, inputs, outputs) float32."""
        rows, inputs, outputs = weights.shape[-3:]
        over = outputs % lanes()
        alone = over * (rows * (inputs // SHORT + inputs % SHORT) + _ALONE)
        if alone < rows * inputs:
            wides, rests = np.split(weights, [outputs - over], axis=-1)
        else:
            more = [(0, 0)] * (weights.ndim - 1) + [(0, -outputs % lanes())]
            wides, rests = np.pad(weights, more), weights[..., :0]
        return cls(np.ascontiguousarray(wides), np.ascontiguousarray(rests.swapaxes(-1, -2)), outputs)

    @classmethod
    def of_convolution(cls, weight: Tensor) -> Weights:
        """Of (outputs, inputs, k, k): runs are what k px beside each other have."""
        outputs, inputs, kernel, _ = weight.shape
        return cls.of(weight.detach().float().permute(2, 3, 1, 0).reshape(kernel, kernel * inputs, outputs).numpy())

    @property
    def values(self) -> Pair:
        """Those in vectors, and the rest."""
        return self.wides, self.rests

    @property
    def sizes(self) -> Sizes:
        """Inputs, outputs in vectors, and the rest."""
        return self.wides.shape[-2], self.wides.shape[-1], self.rests.shape[-2]


def multiply(
    source: Vector, starts: tuple[int, ...], stride: int, weights: Pair, out: Vector, inputs: int, wide: int, rest: int
) -> None:
    """For kernels: a row of outputs, (px, wide + rest), from a source of any shape.

    Each output is the sum over runs of `inputs` values, which begin at `starts`, a tuple, for the first px and `stride`
    later for each one behind it. Weights are `Weights.values`; `Weights.sizes` and `stride` are constants.
    """
    raise TypeError("this is for kernels alone")


@overload(multiply, prefer_literal=True)
def _of_multiply(source, starts, stride, weights, out, inputs, wide, rest):  # type: ignore[no-untyped-def]
    size, outputs = lanes(), wide.literal_value + rest.literal_value
    if wide.literal_value % size:
        raise ValueError(f"weights for vectors of another length: {wide.literal_value} outputs, vectors of {size}")
    vectors = max(number for number in (1, 2, 3) if wide.literal_value // size % number == 0)
    # AVX2 has 16 registers, AVX-512 has 32: sums, weights, and the value that they are multiplied with.
    together = (2 * size - 1 - vectors) // vectors
    side = vectors * size

    def multiplied(source, starts, stride, weights, out, inputs, wide, rest):  # type: ignore[no-untyped-def]
        wides, rests = weights
        count = out.shape[0]
        most = count - count % together
        for first in range(0, wide, side):
            for px in range(0, most, together):
                at, to = px * stride, px * outputs + first
                _add_up_vectors(  # type: ignore[call-arg]  # numba gives the context
                    source, starts, at, wides, first, out, to, outputs, together, vectors, inputs, wide, stride
                )
            for px in range(most, count):
                at, to = px * stride, px * outputs + first
                _add_up_vectors(  # type: ignore[call-arg]
                    source, starts, at, wides, first, out, to, outputs, 1, vectors, inputs, wide, stride
                )
        for number in range(rest):
            for px in range(count):
                at, to = px * stride, px * outputs + wide + number
                _add_up_one(source, starts, at, rests, number * inputs, out, to, inputs, rest)  # type: ignore[call-arg]

    return multiplied


def mapping(function: Callable[..., Sequence[Any]]) -> Any:
    """For kernels: `apply(source, at, step, out, to, out_step, count, wide)`: a function of runs of `count` values.

    The function's first argument is the run from the source's value `at` on, the next one begins `step` behind; what it
    returns goes to `out` in the same way. `wide` values, a constant, make a vector, and a run is as long or longer; its
    last vector may overlap the one before.
    """

    @intrinsic(prefer_literal=True)
    def apply(context, source, at, step, out, to, out_step, count, wide):  # type: ignore[no-untyped-def]
        size = wide.literal_value
        vector = ir.VectorType(_FLOAT, size)

        def generate(target, builder, signature, values):  # type: ignore[no-untyped-def]
            _, at, step, _, to, out_step, count, _ = values
            source, out = (_Memory(target, builder, signature.args[at], values[at]) for at in (0, 3))
            last = builder.sub(count, count.type(size))
            runs = builder.sdiv(builder.add(count, count.type(size - 1)), count.type(size))
            with cgutils.for_range(builder, runs) as loop:
                place = builder.mul(loop.index, count.type(size))
                place = builder.select(builder.icmp_signed("<", place, last), place, last)
                begins = (builder.mul(step, step.type(number)) for number in range(function.__code__.co_argcount))
                taken = [_Values(builder, source.load([at, place, begin], vector)) for begin in begins]
                for number, result in enumerate(function(*taken)):
                    begin = builder.mul(out_step, out_step.type(number))
                    out.store(result.value, [to, place, begin])
            return target.get_dummy_value()

        return types.void(source, _INDEX, _INDEX, out, _INDEX, _INDEX, _INDEX, wide), generate

    return apply


@intrinsic(prefer_literal=True)
def _add_up_vectors(  # type: ignore[no-untyped-def]
    context, source, starts, shift, weight, first, out, to, step, tiles, vectors, inputs, wide, stride
):
    """`vectors` of outputs of some px beside each other; the last five are constants.

    All sums stay in registers, beside as many weights as there are vectors, and one value.
    """
    size = lanes()
    together, across, run, width, apart = (number.literal_value for number in (tiles, vectors, inputs, wide, stride))
    vector = ir.VectorType(_FLOAT, size)
    same = ir.Constant(ir.VectorType(_INT, size), [0] * size)
    nothing = ir.Constant(vector, ir.Undefined)

    def generate(target, builder, signature, values):  # type: ignore[no-untyped-def]
        _, starts, shift, _, first, _, to, step, *_ = values
        source, weight, out = (_Memory(target, builder, signature.args[at], values[at]) for at in (0, 3, 5))
        zeros = ir.Constant(vector, [0.0] * size)
        totals = [[_register(builder, zeros) for _ in range(across)] for _ in range(together)]
        for row, start in enumerate(_each(builder, starts)):
            with cgutils.for_range(builder, first.type(run)) as loop:
                at = builder.mul(loop.index, first.type(width))
                begins = (row * run * width + size * place for place in range(across))
                weights = [weight.load([first, at, begin], vector) for begin in begins]
                for px in range(together):
                    value = source.load([start, shift, loop.index, px * apart], _FLOAT)
                    value = builder.insert_element(nothing, value, _INT(0))
                    value = builder.shuffle_vector(value, nothing, same)
                    for factor, total in zip(weights, totals[px], strict=True):
                        product = builder.fmul(value, factor, flags=_FUSED)
                        builder.store(builder.fadd(product, builder.load(total), flags=_FUSED), total)
        for px in range(together):
            begin = builder.mul(step, step.type(px))
            for place, total in enumerate(totals[px]):
                out.store(builder.load(total), [to, begin, size * place])
        return target.get_dummy_value()

    places = source, starts, _INDEX, weight, _INDEX, out, _INDEX, _INDEX
    return types.void(*places, tiles, vectors, inputs, wide, stride), generate


@intrinsic(prefer_literal=True)
def _add_up_one(context, source, starts, shift, weight, first, out, to, inputs, rest):  # type: ignore[no-untyped-def]
    """One output of one px; the last two are constants."""
    run, outputs = inputs.literal_value, rest.literal_value
    vector = ir.VectorType(_FLOAT, SHORT)
    steps = [(place, vector) for place in range(0, run - SHORT + 1, SHORT)]
    steps += [(place, _FLOAT) for place in range(len(steps) * SHORT, run)]

    def generate(target, builder, signature, values):  # type: ignore[no-untyped-def]
        _, starts, shift, _, first, _, to, *_ = values
        source, weight, out = (_Memory(target, builder, signature.args[at], values[at]) for at in (0, 3, 5))
        totals = {vector: ir.Constant(vector, [0.0] * SHORT), _FLOAT: _FLOAT(0.0)}
        for row, start in enumerate(_each(builder, starts)):
            for place, kind in steps:
                value = source.load([start, shift, place], kind)
                factor = weight.load([first, row * outputs * run + place], kind)
                totals[kind] = builder.fadd(builder.fmul(value, factor, flags=_FUSED), totals[kind], flags=_FUSED)
        sums = totals[vector]
        for half in (4, 2, 1):
            order = ir.Constant(ir.VectorType(_INT, SHORT), [(half + at) % SHORT for at in range(SHORT)])
            sums = builder.fadd(sums, builder.shuffle_vector(sums, sums, order), flags=_FUSED)
        total = builder.fadd(totals[_FLOAT], builder.extract_element(sums, _INT(0)), flags=_FUSED)
        out.store(total, [to])
        return target.get_dummy_value()

    return types.void(source, starts, _INDEX, weight, _INDEX, out, _INDEX, inputs, rest), generate


def _register(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Where a value is kept; LLVM makes a register of it."""
    return cgutils.alloca_once_value(builder, value)  # type: ignore[no-untyped-call]


def _each(builder: ir.IRBuilder, values: ir.Value) -> list[ir.Value]:
    """The members of a tuple."""
    return [builder.extract_value(values, place) for place in range(values.type.count)]


class _Values:
    """A vector in LLVM's terms, for arithmetic."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder, self.value = builder, value

    def __add__(self, other: _Values) -> _Values:
        return _Values(self.builder, self.builder.fadd(self.value, other.value, flags=_FUSED))

    def __sub__(self, other: _Values) -> _Values:
        return _Values(self.builder, self.builder.fsub(self.value, other.value, flags=_FUSED))

    def __rmul__(self, factor: float) -> _Values:
        factors = ir.Constant(self.value.type, [factor] * self.value.type.count)
        return _Values(self.builder, self.builder.fmul(factors, self.value, flags=_FUSED))


class _Memory:
    """The values of an array, in LLVM's terms."""

    def __init__(self, target: Any, builder: ir.IRBuilder, kind: Any, array: ir.Value) -> None:
        values = target.make_array(kind)(target, builder, array)
        self._target, self._builder = target, builder
        self._begin, self._size = values.data, values.nitems

    def load(self, index: Sequence[Any], kind: ir.Type) -> ir.Value:
        """A value or vector at the sum of these numbers, Python's or LLVM's."""
        return self._builder.load(self._place(index, kind), align=4)

    def store(self, value: ir.Value, index: Sequence[Any]) -> None:
        """The same the other way."""
        self._builder.store(value, self._place(index, value.type), align=4)

    def _place(self, index: Sequence[Any], kind: ir.Type) -> ir.Value:
        builder, total = self._builder, index[0]
        for other in index[1:]:
            total = builder.add(total, total.type(other) if isinstance(other, int) else other)
        if config.BOUNDSCHECK:  # type: ignore[attr-defined]  # numba sets it when it is imported
            end = builder.add(total, total.type(getattr(kind, "count", 1)))
            outside = builder.or_(
                builder.icmp_signed("<", total, total.type(0)), builder.icmp_signed(">", end, self._size)
            )
            with builder.if_then(outside, likely=False):
                self._target.call_conv.return_user_exc(builder, IndexError, ("outside of an array",))
        return builder.bitcast(builder.gep(self._begin, [total]), kind.as_pointer())
