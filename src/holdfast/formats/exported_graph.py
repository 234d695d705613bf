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
    names = [arg["as_tensor"]["name"] for arg in found if "as_tensor" in arg]
    return tuple(_port(name, values[name]) for name in names[:_MOST])


def _port(name: str, meta: Mapping[str, Any]) -> Port:
    sizes = tuple(_size(size) for size in meta["sizes"])
    return Port(str(name), dtype_name(meta["dtype"]), sizes)


def _size(size: Mapping[str, Any]) -> int | str | None:
    if "as_int" in size:
        return int(size["as_int"])
    text = str(size["as_expr"]["expr_str"])
    symbol = re.fullmatch(r"Symbol\('(\w{1,100})'.*\)", text, re.DOTALL)
    return symbol[1] if symbol else None


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
