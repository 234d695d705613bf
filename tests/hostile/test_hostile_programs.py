"""TorchScript and torch.export files made to mislead: a letter for each, and nothing runs."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.hostile.conftest import Assembler
from tests.unit.formats.programs import exported, scripted

from holdfast.errors import FormatError, HoldfastError, RefusedError
from holdfast.io.source import open_source
from holdfast.report.paths import tensors_by_storage
from holdfast.report.verify import verify_index
from holdfast.spec.index import Opaque

ASM = Assembler()
NO_CONSTANTS = ASM.pickle(())

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    SCRIPTED, EXPORTED = scripted(), exported()


def archive(members: dict[str, bytes], *, deflate: tuple[str, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, data in members.items():
            kind = zipfile.ZIP_DEFLATED if name in deflate else zipfile.ZIP_STORED
            made.writestr(f"a/{name}", data, compress_type=kind)
    return buffer.getvalue()


def script(data: bytes, constants: bytes = NO_CONSTANTS, **options) -> bytes:
    members = {"data.pkl": data, "data/0": bytes(16), "constants.pkl": constants}
    return archive({**members, "constants/0": bytes(16), "version": b"3\n"}, **options)


def module(name: str = "Net", state: object = None) -> bytes:
    made = ASM.new(ASM.sym("__torch__", name))
    return ASM.build(made, {} if state is None else state)


def rule_of(data: bytes, kind: type[HoldfastError] = RefusedError) -> str:
    with pytest.raises(kind) as caught:
        ASM.look(data)
    assert caught.value.file
    return caught.value.what.removeprefix("refused: ")


# ---- TorchScript


def test_a_program_that_names_a_function_is_data():
    state = {"weight": ASM.tensor(), "evil": ASM.call(ASM.sym("holdfast_no_such", "run"), "x")}
    index = ASM.look(script(ASM.pickle(module(state=state))))
    assert index.symbols == ("holdfast_no_such.run",)
    assert isinstance(index.tree["evil"], Opaque)
    assert index.tree["weight"].shape == (4,)
    with pytest.raises(HoldfastError, match="holdfast_no_such"):
        ASM.load(script(ASM.pickle(module(state=state))))


def test_constants_name_what_would_run_too():
    constants = ASM.pickle((ASM.call(ASM.sym("holdfast_no_such", "run"), "x"),))
    assert ASM.look(script(ASM.pickle(module()), constants)).symbols == ("holdfast_no_such.run",)


def test_storages_of_one_pickle_are_not_those_of_the_other():
    data = ASM.pickle(module(state={"w": ASM.tensor()}))
    index = ASM.look(script(data, ASM.pickle((ASM.tensor(),))))
    assert index.tree["w"].storage.key == "0"
    assert index.tree["constants"][0].storage.key == "constants/0"
    assert index.extents["0"].offset != index.extents["constants/0"].offset


def test_a_module_in_itself():
    # memo 0 is the module, which is put into its own state
    data = (
        b"\x80\x02" + ASM.new(ASM.sym("__torch__", "Net")) + b"q\x00}" + ASM.ops("me") + b"h\x00sb."
    )
    assert rule_of(script(data)) == "modules do not hold themselves, nor 200 levels of others"


def test_modules_that_hold_each_other_twice_over_and_over():
    data = b"\x80\x02" + module() + b"q\x00"
    for level in range(60):
        data += ASM.new(ASM.sym("__torch__", "Net")) + b"}"
        data += ASM.ops("a") + b"h%c" % level + b"s" + ASM.ops("b") + b"h%c" % level + b"sb"
        data += b"q%c" % (level + 1)
    # All but the last lie below it on the stack: they are held in a tuple, which is no module.
    first = ASM.new(ASM.sym("__torch__", "Net")) + b"}" + ASM.ops("all")
    data = b"\x80\x02" + first + b"(" + data[2:] + b"tsb."
    assert rule_of(script(data)) in (
        "a program describes about as much as it holds",
        "a tree is not much larger than the pickle it comes from",
    )


@pytest.mark.parametrize(
    ("symbol", "args"),
    [
        ("build_intlist", ((1, 2),)),
        ("build_tensorlist", ()),
        ("restore_type_tag", ([1],)),
        ("restore_type_tag", ([1], 5)),
        ("build_tensor_from_id", (3,)),
    ],
)
def test_calls_of_programs_with_other_arguments(symbol, args):
    call = ASM.call(ASM.sym("torch.jit._pickle", symbol), *args)
    data = script(ASM.pickle(module(state={"x": call})))
    assert "torch.jit._pickle" in rule_of(data) or symbol == "build_tensor_from_id"


def test_compressed_storages_and_bombs():
    data = ASM.pickle(module(state={"w": ASM.tensor()}))
    assert rule_of(script(data, deflate=("data/0",))) == "storages are not compressed"
    large = {"data.pkl": data, "constants.pkl": NO_CONSTANTS, "data/0": bytes(16)}
    bomb = {**large, "code/a.py": bytes(300 << 20), "version": b"3\n"}
    packed = archive(bomb, deflate=("code/a.py",))
    assert len(packed) < 1 << 20
    with open_source(io.BytesIO(packed)) as source:
        report = verify_index(ASM.look(packed), source)
    assert [damage.found_crc for damage in report.damages] == [None]  # not unpacked to its end


def test_large_extra_files_are_not_read():
    data = {"data.pkl": ASM.pickle(module()), "constants.pkl": NO_CONSTANTS, "version": b"3\n"}
    packed = archive({**data, "extra/a": bytes(100 << 20)}, deflate=("extra/a",))
    assert ASM.look(packed).metadata == {"a": "(104,857,600 bytes)"}


# ---- torch.export


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        return {info.filename.partition("/")[2]: found.read(info) for info in found.infolist()}


CONFIG = "data/weights/model_weights_config.json"


def changed(**fields) -> bytes:
    """The program with other fields in the description of one weight (``meta_…`` of its tensor)."""
    members = members_of(EXPORTED)
    config = json.loads(members[CONFIG])
    entry = config["config"]["a.weight"]
    for name, value in fields.items():
        target = entry["tensor_meta"] if name.startswith("meta_") else entry
        target[name.removeprefix("meta_")] = value
    return archive({**members, CONFIG: json.dumps(config).encode()})


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"meta_sizes": [{"as_int": 400}, {"as_int": 2}]}, "inside its storage"),
        ({"meta_strides": [{"as_int": 2**40}, {"as_int": 1}]}, "inside its storage"),
        ({"meta_storage_offset": {"as_int": 1}}, "inside its storage"),
        ({"meta_storage_offset": {"as_int": -1}}, "a whole number from 0 on"),
        ({"meta_sizes": [{"as_int": -3}, {"as_int": 2}]}, "whole numbers from 0 on"),
        ({"meta_sizes": [{"as_int": 2**64}, {"as_int": 2}]}, "whole numbers from 0 on"),
        ({"meta_sizes": [{"as_int": 6}]}, "as many sizes as strides"),
        ({"meta_sizes": [{"as_int": True}, {"as_int": 2}]}, "whole numbers"),
        ({"meta_sizes": [{"as_expr": {"expr_str": "exit()"}}] * 2}, "whole numbers"),
        ({"meta_sizes": "ab"}, "are lists"),
        ({"meta_dtype": 8}, "inside its storage"),
        ({"meta_dtype": 99}, "one of torch.export's"),
        ({"meta_dtype": True}, "one of torch.export's"),
        ({"meta_dtype": 5}, "inside its storage"),
        ({"meta_layout": 1}, "raw weights are strided"),
        ({"meta_device": {"type": "x" * 50, "index": None}}, "a device has a name"),
        ({"meta_requires_grad": 2}, "requires_grad is true or false"),
        ({"tensor_meta": None}, "described whole"),
        ({"path_name": "../../a"}, "every weight is in the archive"),
        ({"path_name": "weight_99"}, "every weight is in the archive"),
        ({"path_name": 5}, "every weight is in the archive"),
        ({"is_param": "yes"}, "is_param is true or false"),
    ],
    ids=str,
)
def test_weights_that_lie(fields, rule):
    with pytest.raises(RefusedError) as caught:
        ASM.look(changed(**fields))
    assert rule in caught.value.what
    assert caught.value.tensor == "a.weight"
    assert caught.value.member == f"a/{CONFIG}"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"config": 5}',
        b'{"config": {"a": 5}}',
        b'{"config": NaN}',
        b'{"config": ' + b"[" * 100_000,
        b'{"config": ' + b"9" * 100_000 + b"}",
        b'{"config": "\\ud800"}',
        b"\xff",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_descriptions_that_are_none(text):
    with pytest.raises(FormatError):
        ASM.look(archive({**members_of(EXPORTED), CONFIG: text}))


def test_damaged_descriptions_are_noticed():
    data = EXPORTED.replace(b'"a.weight"', b'"a.weighs"', 1)
    with pytest.raises(FormatError, match="description of this program's weights is damaged"):
        ASM.look(data)


def test_pickled_constants_are_data():
    members = members_of(EXPORTED)
    name = "data/constants/model_constants_config.json"
    config = json.loads(members[name])
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
    config["config"]["evil"] = {**entry, "tensor_meta": None}
    evil = ASM.pickle(ASM.call(ASM.sym("holdfast_no_such", "run"), "x"))
    data = archive(
        {**members, name: json.dumps(config).encode(), "data/constants/opaque_obj_0": evil}
    )
    assert ASM.look(data).symbols == ("holdfast_no_such.run",)
    with pytest.raises(HoldfastError, match="holdfast_no_such"):
        ASM.load(data)
    assert pickle.dumps(ASM.look(data).tree["evil"].symbol)


def test_compressed_weights():
    data = archive(members_of(EXPORTED), deflate=("data/weights/weight_0",))
    assert rule_of(data) == "storages are not compressed"


# ---- broken bytes


def survive(data: bytes) -> None:
    letter = ""
    try:
        with open_source(io.BytesIO(data)) as source:
            index = ASM.look(data)
            tensors_by_storage(index.tree)
            verify_index(index, source)
        ASM.load(data, opaque="keep")
    except HoldfastError as error:
        letter = str(error)
    assert len(letter) < 20_000


@st.composite
def mutated(draw, original: bytes) -> bytes:
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


BOUNDED = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@BOUNDED
@given(st.sampled_from([SCRIPTED, EXPORTED]).flatmap(mutated))
def test_changed_files(data):
    survive(data)


with zipfile.ZipFile(io.BytesIO(SCRIPTED)) as _archive:
    SCRIPT_PICKLE = _archive.read("archive/data.pkl")
SCRIPT_MEMBERS = members_of(SCRIPTED)
EXPORT_MEMBERS = members_of(EXPORTED)


@BOUNDED
@given(mutated(SCRIPT_PICKLE))
def test_changed_pickles_with_a_right_checksum(data):
    survive(archive({**SCRIPT_MEMBERS, "data.pkl": data}))


@BOUNDED
@given(mutated(EXPORT_MEMBERS[CONFIG]))
def test_changed_descriptions_with_a_right_checksum(data):
    survive(archive({**EXPORT_MEMBERS, CONFIG: data}))


@pytest.mark.parametrize("data", [SCRIPTED, EXPORTED], ids=["TorchScript", "torch.export"])
def test_files_cut_short_anywhere(data):
    for stop in range(1, len(data), len(data) // 50):
        with pytest.raises(FormatError):
            ASM.look(data[:stop])
