from __future__ import annotations

from collections import Counter, OrderedDict

import pytest

from holdfast.errors import RefusedError
from holdfast.pickles import module_walk
from holdfast.pickles.modules import flags, is_module, state_dict_of, with_state_dicts
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.index import Opaque, SparseRef, StateDict, StorageRef, TensorRef


def tensor(key: str = "0", **fields) -> TensorRef:
    return TensorRef(
        BY_NAME["float32"], (1,), (1,), StorageRef(key, BY_NAME["float32"], 1), **fields
    )


def module(name: str = "Net", *, of: str = "mine", source=None, **slots) -> Opaque:
    state = {"_parameters": {}, "_buffers": {}, "_modules": {}, "training": True}
    return Opaque(of, name, "newobj", state={**state, **slots}, has_state=True, source=source)


def sure(**slots) -> Opaque:
    """A module of a class of which all is known."""
    return module("Linear", of="torch.nn.modules.linear", **slots)


def test_the_order_is_parameters_buffers_children() -> None:
    inner = module(_parameters={"w": tensor()}, _buffers={"b": tensor()})
    outer = module(
        _modules={"x": inner, "none": None, "y": inner},
        _buffers={"late": tensor(), "no": None, "gone": tensor()},
        _parameters={"first": tensor(), "absent": None},
        _non_persistent_buffers_set={"gone"},
    )
    made = state_dict_of(outer)
    assert list(made) == ["first", "late", "x.w", "x.b", "y.w", "y.b"]
    assert made["x.w"] is made["y.w"]
    assert made.aside == {"_metadata": {name: {"version": 1} for name in ("", "x", "y")}}


def test_tensors_come_out_detached_and_the_tree_stays_as_it_was() -> None:
    special = Opaque("mine", "Special")
    own = tensor(requires_grad=True, is_parameter=True, attributes={"a": 1}, subclass=special)
    node = module(_parameters={"w": own})
    made = state_dict_of(node)["w"]
    assert (made.requires_grad, made.is_parameter, made.attributes) == (False, False, None)
    assert made.subclass is special
    assert made.storage is own.storage
    assert own.requires_grad
    assert node.state["_parameters"]["w"] is own
    sparse = SparseRef("sparse_coo", (1,), {}, requires_grad=True, is_parameter=True)
    assert not state_dict_of(module(_parameters={"w": sparse}))["w"].requires_grad


def test_calls_of_the_table_that_stand_for_tensors_are_detached_too() -> None:
    utils = "torch._utils"
    inner = Opaque(utils, "_rebuild_wrapper_subclass", "reduce", (1, 2, True))
    parameter = Opaque(utils, "_rebuild_parameter", "reduce", (inner, True, None))
    made = state_dict_of(module(_parameters={"w": parameter}))["w"]
    assert (made.name, made.args) == ("_rebuild_wrapper_subclass", (1, 2, False))


def test_modules_of_older_torch_have_no_set_of_buffers_that_are_left_out() -> None:
    assert list(state_dict_of(module(_buffers=OrderedDict(a=tensor())))) == ["a"]


def test_a_class_with_slots_keeps_its_dict_in_a_pair() -> None:
    node = module(_parameters={"w": tensor()})
    node.state = (node.state, {"slot": 3})
    assert list(state_dict_of(node)) == ["w"]


def test_dicts_of_a_class_of_their_own_are_dicts() -> None:
    slot = Opaque("deepspeed", "ZeROOrderedDict", "newobj", pairs=[("w", tensor())])
    assert list(state_dict_of(module(_parameters=slot))) == ["w"]


@pytest.mark.parametrize(
    "node",
    [
        None,
        {"_parameters": {}, "_buffers": {}, "_modules": {}},
        Opaque("mine", "Net"),
        Opaque("mine", "Net", "newobj", state={"_parameters": {}, "_buffers": {}}),
        module(_modules=3),
        module(_modules=None),
        Opaque("mine", "Net", "newobj", state=(1, 2), has_state=True),
        Opaque("torch.fx.graph_module", "reduce_graph_module", "reduce"),
        Opaque("torch._dynamo.eval_frame", "OptimizedModule", "reduce", (3,)),
    ],
)
def test_what_is_no_module(node) -> None:
    assert not is_module(node)
    assert with_state_dicts([node])[0] == node or isinstance(node, Opaque)


def test_a_module_inside_itself_ends() -> None:
    node = sure(_parameters={"w": tensor()})
    node.state["_modules"]["me"] = node
    assert list(state_dict_of(node)) == ["w"]
    assert flags({"model": node}) == (
        "model.me (torch.nn.modules.linear.Linear) is inside itself: its names end there",
    )


def test_a_chain_deeper_than_pythons_stack() -> None:
    node = sure(_parameters={"w": tensor()})
    for _ in range(3000):
        node = sure(_modules={"a": node})
    assert list(state_dict_of(node)) == ["a." * 3000 + "w"]
    assert flags(node) == ()


def test_a_few_modules_that_describe_very_many_names_are_refused(monkeypatch) -> None:
    assert module_walk.BUDGET == 1_000_000
    monkeypatch.setattr(module_walk.Names.__init__, "__defaults__", (None, 20_000))
    node = sure(_parameters={"w": tensor()})
    for _ in range(64):
        node = sure(_modules={"a": node, "b": node})
    for call in (
        lambda: state_dict_of(node, file="a.pt"),
        lambda: with_state_dicts([node], file="a.pt"),
        lambda: flags([node], file="a.pt"),
    ):
        with pytest.raises(RefusedError) as caught:
            call()
        assert str(caught.value) == (
            "refused: the modules in a file have a million names at most\n"
            "  in a.pt\n"
            "  The file is broken, or made to do harm. "
            'holdfast.load(path, opaque="keep") shows it.'
        )


def test_long_names_count_more(monkeypatch) -> None:
    monkeypatch.setattr(module_walk.Names.__init__, "__defaults__", (None, 50))
    node = module(_parameters={str(i): tensor() for i in range(20)})
    assert len(state_dict_of(module(_modules={"a": node}))) == 20
    with pytest.raises(RefusedError):
        state_dict_of(module(_modules={"a" * 200: node}))


def test_two_tensors_of_one_name_are_refused() -> None:
    inner = module(_parameters={"b": tensor()})
    node = module(_parameters={"a.b": tensor()}, _modules={"a": inner})
    with pytest.raises(RefusedError) as caught:
        state_dict_of(node)
    assert caught.value.what == "refused: every tensor of a module has a name of its own"
    assert caught.value.found == "'a.b'"


@pytest.mark.parametrize("slot", ["_parameters", "_buffers", "_modules"])
def test_names_that_are_no_text_are_refused(slot) -> None:
    node = module(**{slot: {3: module() if slot == "_modules" else tensor()}})
    with pytest.raises(RefusedError, match="the names of a module's tensors and modules are text"):
        state_dict_of(node)


# ---- modules in a tree


def test_modules_are_replaced_and_all_else_stays() -> None:
    net = module(_parameters={"w": tensor()})
    aside = {"_metadata": {}}
    state = StateDict(a=1)
    state.aside = aside
    loose = tensor(requires_grad=True)
    holder = Opaque("mine", "Trainer", "reduce", (1, net), state={"net": net}, has_state=True)
    holder.items, holder.pairs, holder.kwargs = [net], [("k", net)], {"x": net}
    symbol = Opaque("mine", "Net")
    tree = {
        "nets": [net, (net, {"deep": net})],
        "state": state,
        "count": Counter(a=2),
        "loose": loose,
        "holder": holder,
        "symbol": symbol,
        "by": {symbol: 3},
        "set": {1, 2},
    }
    made = with_state_dicts(tree)
    weights = made["nets"][0]
    assert list(weights) == ["w"]
    assert made["nets"][1][0] is made["nets"][1][1]["deep"] is weights
    assert type(made["state"]) is StateDict
    assert made["state"].aside is aside
    assert (type(made["count"]), made["count"]) == (Counter, {"a": 2})
    assert made["loose"] is loose
    assert made["symbol"] is symbol
    assert (made["by"], made["set"]) == ({symbol: 3}, {1, 2})
    found = made["holder"]
    assert (found.symbol, found.how, found.args) == ("mine.Trainer", "reduce", (1, weights))
    assert (found.state, found.items, found.kwargs) == ({"net": weights}, [weights], {"x": weights})
    assert found.pairs == [("k", weights)]
    assert holder.state["net"] is net  # what was given is as it was
    assert tree["nets"][0] is net


def test_what_is_inside_itself_stays_so() -> None:
    tree: dict = {"net": module(), "list": []}
    tree["me"] = tree
    pair = (tree["list"], tree)
    tree["list"].append(pair)
    made = with_state_dicts(tree)
    assert made["me"] is made
    assert made["list"][0][0] is made["list"]
    assert made["list"][0][1] is made


def test_modules_that_are_to_be_kept_are() -> None:
    kept, other = module("Kept"), module("Other")
    made = with_state_dicts([kept, other], keep=lambda node: node.name == "Kept")
    assert isinstance(made[0], Opaque)
    assert isinstance(made[1], StateDict)


def test_a_module_may_be_the_whole_file() -> None:
    assert list(with_state_dicts(module(_parameters={"w": tensor()}))) == ["w"]


# ---- what may differ

OVERRIDE = """class Net(nn.Module):
    def state_dict(self):
        pass

    def get_extra_state(self):
        return 3
"""


def test_nothing_is_said_of_torchs_own_classes() -> None:
    assert flags({"a": sure(_parameters={"w": tensor()}), "b": [sure()]}) == ()


def test_source_text_that_changes_the_state_dict_is_named() -> None:
    tree = {"parts": [sure(_modules={"net": module(source=OVERRIDE)})]}
    assert flags(tree) == (
        "parts.0.net (mine.Net) defines state_dict() and get_extra_state() in the source text "
        "that the file carries: here are its parameters and buffers as they are",
    )


@pytest.mark.parametrize(
    ("source", "is_sure"),
    [
        ("class Net(nn.Module):\n    def forward(self, state_dict): pass\n", True),
        ("class Net(torch.nn.Module):\n    x = 3  # state_dict\n", True),
        ("class Net(Base):\n    def forward(self): pass\n", False),
        (None, False),
    ],
)
def test_source_text_of_a_plain_module_leaves_no_doubt(source, is_sure) -> None:
    assert (flags(module(source=source)) == ()) is is_sure


def test_hooks_are_named_and_those_of_spectral_norm_are_known() -> None:
    hook = Opaque("mine", "hook")
    harmless = Opaque("torch.nn.utils.spectral_norm", "SpectralNormStateDictHook", "newobj")
    assert flags(sure(_state_dict_hooks={0: harmless})) == ()
    for slot in ("_state_dict_hooks", "_state_dict_pre_hooks"):
        assert flags(sure(**{slot: {0: hook}})) == (
            "torch.nn.modules.linear.Linear has state-dict hooks, which are not run: here are its "
            "parameters and buffers as they are",
        )


def test_a_module_that_keeps_its_state_otherwise_is_named() -> None:
    conv = Opaque("mine", "Conv", "newobj", state=(1, 2, 3), has_state=True)
    assert flags(sure(_modules={"conv": conv, "odd": 3})) == (
        "conv (mine.Conv) keeps its state in a form of its own: its weights are left out",
        "odd (a int) keeps its state in a form of its own: its weights are left out",
    )


def test_classes_outside_torch_are_named_together() -> None:
    tree = [module(name) for name in ("A", "B", "A", "C", "D", "E")]
    assert flags(tree) == (
        "no file says whether mine.A, mine.B, mine.C and 2 more override state_dict(): "
        "parameters and buffers are as they are",
    )
    known = {"A": True, "B": False, "C": False, "D": False, "E": False}
    assert flags(tree, overrides=lambda module, name: known[name]) == (
        "0 (mine.A) changes what goes into its state dict: here are its parameters and buffers as "
        "they are",
    )


def test_each_class_is_named_once() -> None:
    quantized = [module("Linear", of="torch.nn.quantized.modules.linear") for _ in range(3)]
    holder = Opaque("mine", "Trainer", "reduce", state={"nets": quantized}, has_state=True)
    assert len(flags({"trainer": holder})) == 1
    assert flags({"trainer": holder})[0].startswith(
        "trainer.nets.0 (torch.nn.quantized.modules.linear"
    )
