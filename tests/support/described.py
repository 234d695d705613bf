"""Descriptions of folders, for hypothesis: any tensors, pieces and values."""

from __future__ import annotations

from hypothesis import strategies as st

from holdfast.formats.dcp.description import Description, Value, write_metadata
from holdfast.formats.dcp.layout import Box, Metadata, Place, TensorEntry
from holdfast.spec.dtypes import BY_NAME

NUMBERS = st.integers(0, 1 << 40)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
TEXTS = NAMES | st.sampled_from(["size", "offset", "model", "fqn", "Metadata", "float32"])
DTYPES = st.sampled_from([BY_NAME[name] for name in ("float32", "bfloat16", "int64", "uint16")])
PATHS = st.lists(TEXTS | st.integers(0, 1 << 20), min_size=1, max_size=4).map(tuple)


@st.composite
def metadatas(draw: st.DrawFn) -> Metadata:
    """Any tensors and values, with pieces anywhere: what tiles is not looked at here."""
    entries: dict[str, TensorEntry | None] = {}
    places = {}
    for name in draw(st.lists(TEXTS, unique=True, max_size=6)):
        place = st.builds(Place, TEXTS, NUMBERS, NUMBERS)
        if draw(st.booleans()):
            entries[name] = None
            places[name, None] = draw(place)
            continue
        axes = draw(st.integers(0, 5))
        sizes = st.tuples(*[NUMBERS] * axes)
        boxes = draw(
            st.lists(st.builds(Box, sizes, sizes), max_size=4, unique_by=lambda b: b.offsets)
        )
        entries[name] = TensorEntry(draw(DTYPES), draw(sizes), tuple(boxes))
        places |= {(name, box.offsets): draw(place) for box in boxes}
    paths = {name: draw(PATHS) for name in entries}
    tensors = {name: each for name, each in entries.items() if each is not None}
    return Metadata({**tensors, **entries}, places, paths, ())


@st.composite
def descriptions(draw: st.DrawFn) -> bytes:
    """The bytes of any, with values that came behind the rest or not."""
    told = draw(metadatas())
    texts = TEXTS.filter(lambda name: name not in told.entries)
    value = st.builds(Value, st.builds(Place, TEXTS, NUMBERS, NUMBERS), PATHS)
    values = draw(st.dictionaries(texts, value, max_size=3))
    return Description(told.entries, told.places, told.paths).data(values)


def many(slices: int) -> bytes:
    """A tensor of so many pieces, of a hundred files."""
    boxes = tuple(Box((n, 0), (1, 1000)) for n in range(slices))
    places = {
        ("w", box.offsets): Place(f"__{n % 100}_0.distcp", n * 5000, 5000)
        for n, box in enumerate(boxes)
    }
    entry = TensorEntry(BY_NAME["float32"], (slices, 1000), boxes)
    return write_metadata(Metadata({"w": entry}, places, {}, ()))
