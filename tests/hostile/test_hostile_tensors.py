"""Tensors that reach outside their storage, or are otherwise not what torch writes."""

from __future__ import annotations

import pytest

from holdfast.errors import RefusedError

HUGE = 2**62

VIEWS = {
    "past the end": (
        {"size": (5,)},
        "every element of a tensor lies inside its storage",
        "16",
    ),
    "offset past the end": (
        {"size": (1,), "offset": 4},
        "every element of a tensor lies inside its storage",
        "16",
    ),
    "stride past the end": (
        {"size": (2, 2), "stride": (3, 1)},
        "every element of a tensor lies inside its storage",
        "16",
    ),
    "reach beyond 64 bits": (
        {"size": (4, 2), "stride": (HUGE, HUGE)},
        "every element of a tensor lies inside its storage",
        "16",
    ),
    "numel beyond 64 bits": (
        {"size": (HUGE, HUGE), "stride": (0, 0)},
        "a tensor has fewer than 2**63 elements",
        f"({HUGE}, {HUGE})",
    ),
    "empty, but 2**63 with its other sizes": (
        {"size": (0, HUGE, HUGE), "stride": (0, 0, 0)},
        "a tensor has fewer than 2**63 elements",
        f"(0, {HUGE}, {HUGE})",
    ),
    "negative size": (
        {"size": (-1,)},
        "a tensor's sizes and strides are whole numbers from 0 on",
        "-1",
    ),
    "negative stride": (
        {"stride": (-1,)},
        "a tensor's sizes and strides are whole numbers from 0 on",
        "-1",
    ),
    "negative offset": (
        {"offset": -1},
        "a tensor's offset is a whole number from 0 on",
        "-1",
    ),
    "float offset": (
        {"offset": 0.5},
        "a tensor's offset is a whole number from 0 on",
        "0.5",
    ),
    "true as a size": (
        {"size": (True,)},
        "a tensor's sizes and strides are whole numbers from 0 on",
        "True",
    ),
    "size of 64 bits": (
        {"size": (2**63,), "stride": (0,)},
        "a tensor's sizes and strides are whole numbers from 0 on",
        str(2**63),
    ),
    "text as size": (
        {"size": "ab", "stride": "ab"},
        "a tensor's size and stride are tuples",
        "('ab', 'ab')",
    ),
    "unequal lengths": (
        {"size": (2, 2)},
        "a tensor has as many sizes as strides",
        "2 sizes, 1 strides",
    ),
    "hooks": (
        {"hooks": {"a": 1}},
        "a stored tensor has no backward hooks",
        "a dict",
    ),
    "requires_grad of text": (
        {"grad": "yes"},
        "requires_grad is true or false",
        "'yes'",
    ),
    "other bits": (
        {"bits": ({"data": 1},)},
        "a tensor's bits are conj and neg",
        "a dict",
    ),
    "conjugated floats": (
        {"bits": ({"conj": True},)},
        "only complex tensors are conjugated",
        "torch.float32",
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_tensors_that_are_no_views_of_their_storage_are_refused(asm, name):
    arguments, rule, found = VIEWS[name]
    data = asm.file({"model": {"weight": asm.tensor(**arguments), "bias": asm.tensor()}})
    with pytest.raises(RefusedError) as caught:
        asm.look(data)
    assert caught.value.what == f"refused: {rule}"
    assert caught.value.found == found
    assert caught.value.member == "a/data.pkl"
    assert caught.value.tensor == "model.weight"


def test_the_letter_of_a_refused_tensor(asm):
    with pytest.raises(RefusedError) as caught:
        asm.look(asm.file({"model": {"weight": asm.tensor(size=(5,))}}))
    assert str(caught.value) == (
        "refused: every element of a tensor lies inside its storage\n"
        "  in <BytesIO>, member 'a/data.pkl', tensor 'model.weight'\n"
        "  wanted 20 bytes in storage '0', found 16\n"
        "  The file is broken, or made to do harm: do not load it with anything else."
    )


def test_the_place_is_named_inside_lists_parameters_and_opaque_objects(asm):
    bad = asm.util("_rebuild_parameter", asm.tensor(size=(9,)), True, asm.hooks())
    thing = asm.build(asm.new(asm.sym("some.where", "Thing")), {"inner": [1, bad]})
    for value, place in (([0, {"a": bad}], "1.a"), (thing, "inner.1"), (bad, None)):
        with pytest.raises(RefusedError, match="inside its storage") as caught:
            asm.look(asm.file(value))
        assert caught.value.tensor == place


STORAGES = {
    "fewer bytes than elements": (
        lambda a: a.tensor(storage=a.storage(numel=5)),
        {"0": bytes(16)},
        "a storage has exactly the bytes of its member",
    ),
    "more bytes than elements": (
        lambda a: a.tensor(),
        {"0": bytes(20)},
        "a storage has exactly the bytes of its member",
    ),
    "not there": (
        lambda a: a.tensor(storage=a.storage(key="7")),
        {"0": bytes(16)},
        "every storage is in the archive",
    ),
    "outside the folder": (
        lambda a: a.tensor(storage=a.storage(key="../version")),
        {"0": bytes(16)},
        "every storage is in the archive",
    ),
    "negative numel": (
        lambda a: a.tensor(storage=a.storage(numel=-4)),
        {"0": bytes(16)},
        "a storage has a whole number of elements",
    ),
    "described twice": (
        lambda a: [a.tensor(), a.tensor(storage=a.storage(cls="IntStorage"))],
        {"0": bytes(16)},
        "a storage is described once",
    ),
    "an unknown class": (
        lambda a: a.tensor(storage=a.storage(cls="NoStorage")),
        {"0": bytes(16)},
        "a persistent id names a storage",
    ),
    "another persistent id": (
        lambda a: a.raw(a.ops(("module", a.sym("x", "Y"), "file", "text")) + b"Q"),
        {},
        "a persistent id names a storage",
    ),
}


@pytest.mark.parametrize("name", STORAGES)
def test_storages_that_do_not_fit_the_archive_are_refused(asm, name):
    make, storages, rule = STORAGES[name]
    with pytest.raises(RefusedError) as caught:
        asm.look(asm.file({"w": make(asm)}, storages))
    assert caught.value.what == f"refused: {rule}"
    assert caught.value.tensor in ("w", "w.1")


def test_only_floating_point_tensors_require_gradients(asm):
    integers = asm.storage(cls="IntStorage")
    with pytest.raises(RefusedError) as caught:
        asm.look(asm.file({"w": asm.tensor(storage=integers, grad=True)}))
    assert caught.value.what == "refused: only floating point tensors require gradients"
    assert caught.value.found == "torch.int32"
    assert asm.load(asm.file(asm.tensor(grad=True))).requires_grad


def quantized(asm, params, size=(4,), stride=(1,)):
    storage = asm.storage(cls="QInt8Storage")
    return asm.util("_rebuild_qtensor", storage, 0, size, stride, params, False, asm.hooks())


def scheme(asm, name="per_channel_affine"):
    return asm.sym("torch", name)


QUANTIZED = {
    "past the end": (
        lambda a: quantized(a, (scheme(a, "per_tensor_affine"), 1.0, 0), (5,)),
        "every element of a tensor lies inside its storage",
    ),
    "strides past the end": (
        lambda a: quantized(a, (scheme(a, "per_tensor_affine"), 1.0, 0), (2, 2), (4, 1)),
        "every element of a tensor lies inside its storage",
    ),
    "expanded by 2**40": (
        lambda a: quantized(a, (scheme(a, "per_tensor_affine"), 1.0, 0), (2**40,), (0,)),
        "a quantized tensor is not expanded beyond its storage",
    ),
    "unknown scheme": (
        lambda a: quantized(a, (scheme(a, "per_tensor_symmetric"), 1.0, 0)),
        "a quantized tensor names a scheme that torch writes",
    ),
    "scale of text": (
        lambda a: quantized(a, (scheme(a, "per_tensor_affine"), "1", 0)),
        "a scale is a number, a zero point a whole one",
    ),
    "zero point of 64 bits": (
        lambda a: quantized(a, (scheme(a, "per_tensor_affine"), 1.0, 2**40)),
        "a zero point has 32 bits",
    ),
    "axis out of range": (
        lambda a: quantized(a, (scheme(a), [1.0] * 4, [0] * 4, 1)),
        "the axis of the scales is one of the tensor",
    ),
    "too few scales": (
        lambda a: quantized(a, (scheme(a), [1.0] * 3, [0] * 4, 0)),
        "there is one scale and one zero point per channel",
    ),
    "as a plain tensor": (
        lambda a: a.tensor(storage=a.storage(cls="QInt8Storage")),
        "a quantized tensor says how it is scaled",
    ),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_tensors_that_do_not_fit_are_refused(asm, name):
    make, rule = QUANTIZED[name]
    with pytest.raises(RefusedError) as caught:
        asm.look(asm.file({"w": make(asm)}, {"0": bytes(4)}))
    assert caught.value.what == f"refused: {rule}"


def test_packed_quantized_tensors_are_checked_in_bits(asm):
    def packed(numel):
        params = (scheme(asm, "per_tensor_affine"), 1.0, 0)
        storage = asm.storage(cls="QUInt4x2Storage", numel=2)
        args = (storage, 0, (numel,), (1,), params, False, asm.hooks())
        return asm.file(asm.util("_rebuild_qtensor", *args), {"0": bytes(2)})

    assert asm.look(packed(4)).tree.shape == (4,)
    with pytest.raises(RefusedError, match="inside its storage"):
        asm.look(packed(5))


def coo(asm, index, size=(4,), coalesced=(True,)):
    indices = asm.tensor((1, 2), (2, 1), 0, asm.storage("1", "LongStorage", 2))
    values = asm.tensor((2,))
    layout = asm.call(asm.sym("torch.serialization", "_get_layout"), "torch.sparse_coo")
    shape = asm.call(asm.sym("torch", "Size"), size)
    made = asm.util("_rebuild_sparse_tensor", layout, (indices, values, shape, *coalesced))
    data = b"".join(i.to_bytes(8, "little", signed=True) for i in index)
    return asm.file({"w": made}, {"0": bytes(16), "1": data})


@pytest.mark.parametrize("index", [(0, 4), (0, -1), (0, 2**62), (1, 1), (2, 1)])
def test_sparse_indices_out_of_range_repeated_or_unsorted_are_refused(asm, index):
    data = coo(asm, index)
    assert asm.look(data).tree["w"].shape == (4,)
    with pytest.raises(RefusedError) as caught:
        asm.load(data)
    assert caught.value.what == (
        "refused: the indices of a sparse tensor lie inside its shape and fit its values"
    )
    assert caught.value.wanted == "sparse_coo (4,)"


def test_a_good_sparse_tensor_of_the_same_make_loads(asm):
    assert asm.load(coo(asm, (0, 3)))["w"].indices().tolist() == [[0, 3]]


def test_sparse_compressed_indices_out_of_range_are_refused(asm):
    storage = asm.storage("1", "LongStorage", 5)
    rows = asm.tensor((3,), (1,), 0, storage)
    columns = asm.tensor((2,), (1,), 3, storage)
    layout = asm.call(asm.sym("torch.serialization", "_get_layout"), "torch.sparse_csr")
    made = asm.util("_rebuild_sparse_tensor", layout, (rows, columns, asm.tensor((2,)), (2, 2)))
    index = b"".join(i.to_bytes(8, "little") for i in (0, 1, 2, 0, 9))
    with pytest.raises(RefusedError, match="indices of a sparse tensor"):
        asm.load(asm.file(made, {"0": bytes(16), "1": index}))


def test_memory_that_nobody_wrote_is_never_returned(asm):
    for name in ("Tensor", "FloatTensor"):
        data = asm.file({"w": asm.call(asm.sym("torch", name), 1000)})
        with pytest.raises(Exception) as caught:  # noqa: PT011 (its class is checked below)
            asm.load(data)
        assert type(caught.value).__name__ in ("RefusedError", "UntrustedError")
    with pytest.raises(RefusedError) as caught:
        asm.look(asm.file({"w": asm.call(asm.sym("torch", "Tensor"), 1000)}))
    assert caught.value.what == "refused: torch.Tensor(…) would return memory nobody wrote"
    with pytest.raises(RefusedError, match="that is begun is also filled"):
        asm.look(asm.file({"w": asm.call(asm.sym("torch", "Tensor"))}))


def test_a_tensor_of_two_to_the_forty_elements_is_a_view_and_takes_no_memory(asm):
    data = asm.file({"w": asm.tensor((2**40,), (0,))})
    assert asm.look(data).tree["w"].numel == 2**40
    loaded = asm.load(data)["w"]
    assert loaded.shape == (2**40,)
    assert loaded.untyped_storage().nbytes() == 16


def test_attributes_of_tensors_shadow_nothing(asm):
    function = asm.sym("torch._utils", "_rebuild_tensor_v2")
    args = asm.raw(asm.ops((asm.storage(), 0, (4,), (1,), False, asm.hooks())))
    for name in ("data", "backward", "__class__", "shape"):
        made = asm.call(
            asm.sym("torch._tensor", "_rebuild_from_type_v2"),
            function,
            asm.sym("torch", "Tensor"),
            args,
            {name: 1},
        )
        with pytest.raises(RefusedError) as caught:
            asm.load(asm.file(made))
        assert caught.value.what == (
            "refused: attributes of a stored tensor shadow nothing that tensors have"
        )
        assert caught.value.found == name


def test_a_state_dict_cannot_lie_about_its_items(asm):
    state_dict = asm.build(asm.hooks(), {"items": 1, "_metadata": {"": 1}})
    data = asm.file(state_dict)
    assert asm.look(data).tree.aside == {"items": 1, "_metadata": {"": 1}}
    with pytest.raises(RefusedError) as caught:
        asm.load(data)
    assert caught.value.what == "refused: what is set on a dict shadows nothing that dicts have"
    good = asm.load(asm.file(asm.build(asm.hooks(), {"_metadata": {"": 1}})))
    assert good._metadata == {"": 1}
