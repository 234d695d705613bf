"""ONNX models: their initialisers, where they lie in the file or beside it.

The protobuf is walked by position, so no package is needed and no tensor is read. The graph is a
program: it is named, and never run.
"""

from __future__ import annotations

from holdfast.errors import FormatError
from holdfast.formats.onnx_graph import DOMAIN, OPERATOR, Calls, short
from holdfast.formats.onnx_places import Places
from holdfast.formats.onnx_tensor import STRING, Proto, read_proto, shape_of
from holdfast.formats.program_facts import Found, facts
from holdfast.formats.protobuf import BYTES, VARINT, Field, Walker
from holdfast.io.source import Source
from holdfast.spec.index import Extent, Index, SparseRef, StorageRef, TensorRef
from holdfast.spec.program import PROPERTY
from holdfast.spec.strides import contiguous

#: The fields of a ModelProto that are text or a number, by the names they get in the metadata.
_ABOUT = {1: "ir_version", 2: "producer_name", 3: "producer_version", 4: "domain"} | {
    5: "model_version",
    6: "doc_string",
}
_OPSETS, _GRAPH, _PROPS = 8, 7, 14
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15
_NODE_NAME, _NODE_ATTRIBUTE = 3, 5
_ATTRIBUTE_NAME, _SUBGRAPH, _SUBGRAPHS = 1, 6, 11
#: Graphs inside graphs: branches and loops inside one another.
_DEEPEST = 20
#: An attribute with a tensor in it is longer than this; most are a number or a few.
_SHORTEST_SUBGRAPH = 16
_LONGEST_TEXT = 1 << 20


def read_index(source: Source, *, encoding: str = "utf-8") -> Index:
    """What an ONNX model holds: the initialisers of its graph, and of graphs inside it, by name.

    Raises:
        RefusedError: a rule for hostile files is broken.
        TruncatedError: a file with its weights ends too early.
        FormatError: it has no graph, or a file with its weights is not there.
    """
    walker = Walker(source)
    model = _Model(walker)
    metadata: dict[str, str] = {}
    opsets: dict[str, int] = {}
    graphs: list[Field] = []
    for field in walker.fields(0, source.size):
        if field.number in _ABOUT:
            is_text = field.wire == BYTES
            text = walker.text(field, most=_LONGEST_TEXT) if is_text else str(field.value)
            metadata.setdefault(_ABOUT[field.number], text)
        elif field.number == _GRAPH and field.wire == BYTES:
            graphs.append(field)
        elif field.number == _OPSETS and field.wire == BYTES:
            domain, version = _opset(walker, field)
            opsets.setdefault(domain, version)
        elif field.number == _PROPS and field.wire == BYTES:
            metadata.setdefault(*_pair(walker, field))
    if opsets:
        metadata["opset_import"] = ", ".join(f"{name} {number}" for name, number in opsets.items())
    model.graph(_only(walker, graphs), "", 0)
    model.places.close()
    own = set(model.tree)
    calls = model.calls
    found = Found(
        inputs=tuple(port for port in calls.inputs if port.name not in own),
        outputs=tuple(calls.outputs),
        operators=calls.operators,
        opsets=opsets,
    )
    program = facts(found, metadata, PROPERTY, source.name)
    return Index(
        file=source.name,
        format="onnx",
        tree=model.tree,
        extents=model.extents,
        file_nbytes=source.size,
        notes=(*model.notes, *program.notes),
        metadata=program.metadata,
        programs=("graph",),
        program=program.program,
    )


def _only(walker: Walker, graphs: list[Field]) -> Field:
    if not graphs:
        raise FormatError(
            "this ONNX model has no graph",
            file=walker.source.name,
            cure="The file is broken or was cut off: get it again.",
        )
    if len(graphs) > 1:
        raise walker.refused("a model has one graph", found=f"{len(graphs)}")
    return graphs[0]


class _Model:
    """Collects the tensors of a graph and of the graphs inside it."""

    def __init__(self, walker: Walker) -> None:
        self._walker, self.places = walker, Places(walker)
        self.tree: dict[str, object] = {}
        self.extents: dict[str, Extent] = {}
        self.notes: list[str] = []
        self.calls = Calls()

    def graph(self, field: Field, path: str, depth: int) -> None:
        """Take up the tensors of a graph; ``path`` is what their names begin with."""
        if depth > _DEEPEST:
            rule = f"graphs are at most {_DEEPEST} levels deep"
            raise self._walker.refused(rule, found=path[:200])
        count = 0
        for each in self._walker.fields(field.start, field.end):
            if each.wire != BYTES:
                continue
            if each.number == _INITIALIZER:
                self._initializer(each, path)
            elif each.number == _SPARSE:
                self._sparse(each, path)
            elif each.number == _NODE:
                self._node(each, path, count, depth)
                count += 1
            elif depth == 0:
                self.calls.port(self._walker, each)

    def _node(self, field: Field, path: str, position: int, depth: int) -> None:
        name, operator, domain, attributes = "", "", "", []
        for each in self._walker.fields(field.start, field.end):
            if each.number == _NODE_NAME and each.wire == BYTES:
                name = self._walker.text(each)
            elif each.number == OPERATOR and each.wire == BYTES:
                operator = short(self._walker, each)
            elif each.number == DOMAIN and each.wire == BYTES:
                domain = short(self._walker, each)
            elif each.number == _NODE_ATTRIBUTE and each.nbytes > _SHORTEST_SUBGRAPH:
                attributes.append(each)
        self.calls.node(operator, domain)
        for attribute in attributes:
            self._attribute(attribute, f"{path}{name or f'node {position}'}.", depth)

    def _attribute(self, field: Field, path: str, depth: int) -> None:
        name, graphs = "", []
        for each in self._walker.fields(field.start, field.end):
            if each.number == _ATTRIBUTE_NAME and each.wire == BYTES:
                name = self._walker.text(each)
            elif each.number in (_SUBGRAPH, _SUBGRAPHS) and each.wire == BYTES:
                graphs.append(each)
        for position, graph in enumerate(graphs):
            step = name if len(graphs) == 1 else f"{name}.{position}"
            self.graph(graph, f"{path}{step}.", depth + 1)

    def _initializer(self, field: Field, path: str) -> None:
        proto = read_proto(self._walker, field.start, field.end)
        self._add(path + proto.name, self._tensor(proto, path + proto.name))

    def _add(self, name: str, node: object) -> None:
        if name in self.tree:
            raise self._walker.refused("a graph has each name once", tensor=name)
        self.tree[name] = node

    def _tensor(self, proto: Proto, key: str) -> TensorRef | list[bytes]:
        if proto.data_type == STRING:
            return [self._walker.read(text) for text in proto.strings]
        shape = shape_of(self._walker, proto)
        if key in self.extents:
            raise self._walker.refused("a graph has each name once", tensor=key)
        self.extents[key] = self.places.find(proto, shape)
        if shape.note is not None:
            self.notes.append(shape.note)
        storage = StorageRef(key, shape.dtype, shape.nbytes * 8 // shape.dtype.bits)
        return TensorRef(shape.dtype, shape.sizes, contiguous(shape.sizes), storage)

    def _sparse(self, field: Field, path: str) -> None:
        """A SparseTensorProto: the values, whose name is the tensor's, their indices, its sizes."""
        parts: dict[int, Proto] = {}
        dims: list[int] = []
        for each in self._walker.fields(field.start, field.end):
            if each.number in (1, 2) and each.wire == BYTES and each.number not in parts:
                parts[each.number] = read_proto(self._walker, each.start, each.end)
            elif each.number == 3 and each.wire == VARINT:
                dims.append(each.value)
            elif each.number == 3 and each.wire == BYTES:
                dims.extend(self._walker.varints(each.start, each.end))
        if parts.keys() != {1, 2}:
            raise self._walker.refused("a sparse tensor has values and indices, each once")
        name = path + parts[1].name
        values, indices = (self._tensor(parts[n], f"{name} ({w})") for n, w in _SPARSE_PARTS)
        self._add(name, self._coo(name, values, indices, tuple(dims)))

    def _coo(self, name: str, values: object, indices: object, dims: tuple[int, ...]) -> SparseRef:
        if (
            not isinstance(values, TensorRef)
            or not isinstance(indices, TensorRef)
            or indices.dtype.name != "int64"
            or len(values.shape) != 1
            or indices.shape not in ((*values.shape, len(dims)), values.shape)
            or not dims
            or max(dims) >= 1 << 63
        ):
            raise self._walker.refused(
                "the indices of a sparse tensor fit its values and sizes", tensor=name
            )
        if len(indices.shape) == 1 and len(dims) > 1:
            self.notes.append(f"{name[:100]} is flat: its indices count through {list(dims)}")
            dims = (_numel(dims),)
        count, rank = values.shape[0], len(dims)
        turned = TensorRef(indices.dtype, (rank, count), (1, rank), indices.storage)
        return SparseRef("sparse_coo", dims, {"indices": turned, "values": values})


_SPARSE_PARTS = ((1, "values"), (2, "indices"))


def _numel(dims: tuple[int, ...]) -> int:
    made = 1
    for size in dims:
        made *= size
    return made


def _opset(walker: Walker, field: Field) -> tuple[str, int]:
    domain, version = "ai.onnx", 0
    for each in walker.fields(field.start, field.end):
        if each.number == 1 and each.wire == BYTES and each.nbytes:
            domain = walker.text(each)
        elif each.number == 2:
            version = each.value
    return domain, version


def _pair(walker: Walker, field: Field) -> tuple[str, str]:
    pair = {1: "", 2: ""}
    for each in walker.fields(field.start, field.end):
        if each.number in pair and each.wire == BYTES:
            pair[each.number] = walker.text(each, most=_LONGEST_TEXT)
    return pair[1], pair[2]
