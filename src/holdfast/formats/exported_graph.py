"""What a program of torch.export takes, gives and calls, from its graph's JSON.

The layout is torch's own (torch/_export/serde/schema.py). Its expressions, which torch evaluates,
are text here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.formats.exported_payload import dtype_name
from holdfast.spec.program import Port

#: Graphs inside graphs: the branches of torch.cond.
_DEEPEST = 50
_MOST = 100_000
_NUMBERS = {"as_sym_int": "int", "as_sym_float": "float", "as_sym_bool": "bool"}
#: A symbol alone, as torch writes it, and as it did before 2.7; sums and products have no name.
_SYMBOL = re.compile(r"Symbol\('(\w{1,100})'(?:, \w+=\w+)*\)|([A-Za-z_]\w{0,99})")


def calls_of(graph_json: Any) -> tuple[tuple[Port, ...], tuple[Port, ...], dict[str, int]]:
    """The inputs and outputs of the user, and the operators with their counts.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is laid out in another way.
    """
    module = graph_json["graph_module"]
    graph, signature = module["graph"], module["signature"]
    values = graph["tensor_values"]
    inputs = _ports(signature["input_specs"], "user_input", values)
    outputs = _ports(signature["output_specs"], "user_output", values)
    counts: dict[str, int] = {}
    for target in _targets(graph, 0):
        if target in counts or len(counts) < _MOST:
            counts[target] = counts.get(target, 0) + 1
    return inputs, outputs, counts


def _ports(specs: Any, kind: str, values: Mapping[str, Any]) -> tuple[Port, ...]:
    found = [spec[kind]["arg"] for spec in specs if kind in spec]
    ports = (_port(arg, values) for arg in found[:_MOST])
    return tuple(port for port in ports if port is not None)


def _port(arg: Mapping[str, Any], values: Mapping[str, Any]) -> Port | None:
    """A tensor, or a number with a name; a constant is no port."""
    if "as_tensor" in arg:
        name = arg["as_tensor"]["name"]
        sizes = tuple(_size(size) for size in values[name]["sizes"])
        return Port(str(name), dtype_name(values[name]["dtype"]), sizes)
    for kind, word in _NUMBERS.items():
        if kind in arg and "as_name" in arg[kind]:
            return Port(str(arg[kind]["as_name"]), word)
    return None


def _size(size: Mapping[str, Any]) -> int | str | None:
    number = size.get("as_int")
    if number is None:
        symbol = _SYMBOL.fullmatch(str(size["as_expr"]["expr_str"]))
        return symbol[1] or symbol[2] if symbol else None
    if type(number) is not int or not 0 <= number < 1 << 63:
        raise ValueError(f"a size of {number}")
    return number


def _targets(graph: Any, depth: int) -> Iterator[str]:
    """Of each node ``torch.ops.aten.linear.default`` → ``aten.linear``, also within branches."""
    if depth > _DEEPEST:
        return
    for node in graph["nodes"]:
        target = str(node["target"]).removeprefix("torch.ops.")
        yield target.removesuffix(".default")[:1000]
        for each in node["inputs"]:
            inner = each["arg"].get("as_graph")
            if inner is not None:
                yield from _targets(inner["graph"], depth + 1)
