"""How a quantized tensor is scaled: the quantizer's parameters, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.pickles import checks
from holdfast.spec.index import Opaque, Quantizer, TensorRef

if TYPE_CHECKING:
    from holdfast.pickles.machine import Machine

_PER_CHANNEL = ("per_channel_affine", "per_channel_affine_float_qparams")


def quantizer(m: Machine, params: Any, ref: TensorRef) -> Quantizer:
    """The quantizer that ``(scheme, scale, zero point[, axis])`` describes.

    Raises:
        RefusedError: an unknown scheme, or scales that do not fit the tensor's shape.
    """
    if not isinstance(params, tuple) or not params or type(params[0]) is not Opaque:
        raise m.refused("a quantized tensor names its scheme", found=m.shown(params))
    scheme = params[0].name
    if params[0].module == "torch" and scheme == "per_tensor_affine" and len(params) == 3:
        return _per_tensor(m, scheme, params[1], params[2])
    if params[0].module == "torch" and scheme in _PER_CHANNEL and len(params) == 4:
        return _per_channel(m, scheme, params[1:], ref)
    raise m.refused("a quantized tensor names a scheme that torch writes", found=m.shown(params))


def _per_tensor(m: Machine, scheme: str, scale: Any, zero_point: Any) -> Quantizer:
    if type(scale) not in (float, int) or type(zero_point) is not int:
        found = m.shown((scale, zero_point))
        raise m.refused("a scale is a number, a zero point a whole one", found=found)
    if not -(1 << 31) <= zero_point < 1 << 31:
        raise m.refused("a zero point has 32 bits", found=m.shown(zero_point))
    return Quantizer(scheme, float(scale), zero_point)


def _per_channel(m: Machine, scheme: str, params: tuple[Any, ...], ref: TensorRef) -> Quantizer:
    scales, zero_points, axis = params
    if type(axis) is not int or not 0 <= axis < len(ref.shape):
        raise m.refused("the axis of the scales is one of the tensor", found=m.shown(axis))
    for numbers in (scales, zero_points):
        if _length(m, numbers) != ref.shape[axis]:
            raise m.refused(
                "there is one scale and one zero point per channel",
                wanted=ref.shape[axis],
                found=_length(m, numbers),
            )
    return Quantizer(scheme, scales, zero_points, axis)


def _length(m: Machine, numbers: Any) -> int:
    if isinstance(numbers, list) and all(type(n) in (int, float) for n in numbers):
        m.spend(8 * len(numbers))
        return len(numbers)
    if not isinstance(numbers, TensorRef) or len(numbers.shape) != 1 or numbers.quantizer:
        raise m.refused("scales are a tensor with one dimension", found=m.shown(numbers))
    checks.within_reach(m, numbers, "a tensor of scales")
    return numbers.shape[0]
