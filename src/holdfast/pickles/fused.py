"""One step for the thirty opcodes by which torch.save writes a tensor.

A checkpoint repeats them for every tensor, and nearly all the time of reading its pickle goes
there. Nothing is left out: every get, put, persistent id and call happens, in the same order.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from holdfast.errors import RefusedError
from holdfast.pickles import checks, opcodes, plain, rebuild
from holdfast.pickles.machine import Machine
from holdfast.spec.index import StateDict, StorageRef

_GET = rb"(h.|j....)"
_PUT = rb"(q.|r....)"
_INT = rb"(K.|M..|J....)"
_EACH = rb"(?:K.|M..|J....)"
#: ``()``; or one to three numbers with an opcode of their own, or any number behind a mark, put.
_NUMBERS = (
    rb"(?:\)|(" + _EACH + rb"{1,3}[\x85-\x87]|\(" + _EACH + rb"{4,64}t)" + _PUT + rb")"
)  # fmt: skip

#: function ((“storage”, class, key, location, numel[, None]) as a persistent id, offset, size,
#: stride, False, OrderedDict()) called, each tuple and result put into the memo. The opcode of a
#: put grows with the memo: the one tensor where it does between the last two is left to the rest.
_TENSOR = re.compile(
    _GET + rb"\(\(" + _GET + _GET + rb"X(.)\0\0\0([0-9]{1,20})" + _PUT + _GET + _INT + rb"(N?)t"
    + _PUT + rb"Q" + _INT + _NUMBERS + _NUMBERS + rb"\x89" + _GET
    + rb"\)R(q.tq.R|r....tr....R)" + _PUT,
    re.DOTALL,
)  # fmt: skip
_uint4 = struct.Struct("<I").unpack_from
_two_puts = struct.Struct("<xI2xIx").unpack_from


def binget(m: Machine) -> None:
    """BINGET, and what follows where that is the rest of a tensor."""
    pos = m.pos
    if not (m.data.startswith(b"((", pos + 1) and _tensor(m, pos - 1)):
        opcodes.binget(m)


def long_binget(m: Machine) -> None:
    """LONG_BINGET, likewise."""
    pos = m.pos
    if not (m.data.startswith(b"((", pos + 4) and _tensor(m, pos - 1)):
        opcodes.long_binget(m)


def _tensor(m: Machine, start: int) -> bool:
    found = _TENSOR.match(m.data, start)
    if found is None:
        return False
    (function, word, cls, length, key, key_put, location, numel, view, id_put, offset,
     size, size_put, stride, stride_put, hooks_class, two_puts, put,
    ) = found.groups()  # fmt: skip
    memo, numbers = m.memo, m.numbers
    sizes, strides = numbers[size], numbers[stride]
    if length[0] != len(key) or sizes is None or strides is None:
        return False
    m.pos = found.end()
    called, first, second = memo[numbers[function]], memo[numbers[word]], memo[numbers[cls]]
    memo[_place(key_put)] = name = key.decode("ascii")
    pid: Any = (first, second, name, memo[numbers[location]], numbers[numel])
    memo[_place(id_put)] = pid = (*pid, None) if view else pid
    try:
        storage = m.persistent(m, pid)
    except RefusedError as error:
        storage = m.flawed(error, pid)
    if size_put is not None:
        memo[_place(size_put)] = sizes
    if stride_put is not None:
        memo[_place(stride_put)] = strides
    hooks_put, args_put = _two_puts(two_puts) if len(two_puts) == 12 else (two_puts[1], two_puts[4])
    memo[hooks_put] = hooks = _called(m, memo[numbers[hooks_class]], ())
    args = (storage, numbers[offset], sizes, strides, False, hooks)
    memo[args_put] = args
    if (
        type(hooks) is StateDict
        and type(storage) is StorageRef
        and not storage.dtype.is_quantized
        and m.call_of(called) is rebuild.tensor_v2
    ):
        made = _placed(m, args, (size, stride))
    else:
        made = _called(m, called, args)
    memo[_place(put)] = made
    m.stack.append(made)
    return True


def _placed(m: Machine, args: tuple[Any, ...], written: tuple[bytes | None, bytes | None]) -> Any:
    """What ``rebuild.tensor_v2`` makes of these; sizes and strides are checked once for all."""
    storage, offset, sizes, strides, _, _ = args
    try:
        m.count_object()
        box = m.boxes.get(written)
        if box is None:
            box = m.boxes[written] = checks.box(m, sizes, strides)
        return checks.placed(m, storage.dtype, storage, offset, box)
    except RefusedError as error:
        return m.flawed(error, args)


def _called(m: Machine, function: Any, args: tuple[Any, ...]) -> Any:
    try:
        if not args and m.call_of(function) is plain.ordered_dict:
            m.count_object()
            return StateDict()
        return m.call(function, args)
    except RefusedError as error:
        return m.flawed(error, args)


def _place(written: bytes) -> int:
    """The place in the memo of a put, which no other put has."""
    return written[1] if len(written) == 2 else _uint4(written, 1)[0]
