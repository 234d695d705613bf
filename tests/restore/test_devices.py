"""Where tensors land: with the live ones; those without memory where the caller says."""

from __future__ import annotations

import pytest
import torch
from relocating import relocate
from torch import nn

import holdfast
from holdfast.errors import MismatchError, UsageError
from holdfast.state.equal import same


def model_of() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def saved(tmp_path, **parts):
    holdfast.save_state(tmp_path / "a.pt", **parts)
    return tmp_path / "a.pt"


@pytest.mark.parametrize("location", ["cuda:0", "cuda:7", "mps", "xla:0"])
def test_files_of_any_device_load_on_a_machine_without_one(location, tmp_path) -> None:
    model = model_of()
    buffer = tmp_path / "a.pt"
    torch.save(model.state_dict(), buffer)
    relocate(buffer, location)
    live = model_of()
    holdfast.load_state(buffer, model=live)
    assert same(live.state_dict(), model.state_dict())


def test_a_model_without_memory_takes_what_is_loaded(tmp_path) -> None:
    model = model_of()
    path = saved(tmp_path, model=model)
    with torch.device("meta"):
        live = model_of()
    optimizer = torch.optim.SGD(live.parameters(), lr=1)
    holdfast.load_state(path, model=live)
    assert same(live.state_dict(), model.state_dict())
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in live.parameters())
    assert next(live.parameters()) is optimizer.param_groups[0]["params"][0]
    live[0](torch.ones(2, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(live[0].weight, model[0].weight)


def test_tied_parameters_without_memory_stay_tied(tmp_path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.b = nn.Linear(2, 2)
            self.b.weight = self.a.weight

    model = Tied()
    path = saved(tmp_path, model=model)
    with torch.device("meta"):
        live = Tied()
    holdfast.load_state(path, model=live)
    assert live.a.weight is live.b.weight
    assert same(live.state_dict(), model.state_dict())


def test_tensors_that_share_memory_in_the_file_do_not_in_the_model(tmp_path) -> None:
    whole = torch.arange(8.0)
    torch.save({"0.weight": whole[:4].view(2, 2), "0.bias": whole[2:4]}, tmp_path / "views.pt")
    with torch.device("meta"):
        live = nn.Sequential(nn.Linear(2, 2))
    holdfast.load_state(tmp_path / "views.pt", model=live)
    with torch.no_grad():
        live[0].bias += 100
    assert live[0].weight.tolist() == [[0, 1], [2, 3]]
    assert live[0].weight.untyped_storage().nbytes() == 16


def test_another_type_becomes_the_live_one(tmp_path) -> None:
    model = model_of().double()
    path = saved(tmp_path, model=model)
    with torch.device("meta"):
        live = model_of()
    holdfast.load_state(path, cast=True, model=live)
    assert live[0].weight.dtype is torch.float32
    assert torch.equal(live[0].weight, model[0].weight.float())


def test_what_another_part_refuses_leaves_a_model_without_memory(tmp_path) -> None:
    class Picky:
        def state_dict(self):
            return {"n": 1}

        def load_state_dict(self, state):
            if state["n"] == 1:
                raise ValueError("not that")

    model = model_of()
    path = saved(tmp_path, model=model, other=Picky())
    with torch.device("meta"):
        live = model_of()

    class Late(Picky):
        pass

    with pytest.raises(MismatchError):
        holdfast.load_state(path, model=live, other=Late())
    assert all(p.is_meta for p in live.parameters())


@pytest.mark.parametrize(
    "map_location", ["cpu", torch.device("cpu"), {"cuda:0": "cpu"}, lambda s, _: s]
)
def test_map_location_in_every_form(map_location, tmp_path) -> None:
    model = model_of()
    path = saved(tmp_path, model=model)
    with torch.device("meta"):
        live = model_of()
    holdfast.load_state(path, map_location=map_location, model=live)
    assert same(live.state_dict(), model.state_dict())
    assert live[0].weight.device.type == "cpu"


class Doubling(nn.Linear):
    """A module with code of its own, so that its tensors are built before they are copied."""

    def _load_from_state_dict(self, state, prefix, *rest) -> None:
        super()._load_from_state_dict(state, prefix, *rest)


@pytest.mark.parametrize("map_location", ["meta", {"cpu": "meta"}])
def test_live_parts_say_themselves_where_their_tensors_go(map_location, tmp_path) -> None:
    model, generator = Doubling(2, 2), torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    parts = {"model": model, "optimizer": optimizer, "generator": generator}
    holdfast.save_state(tmp_path / "a.pt", extra={"x": torch.ones(3)}, **parts)
    live = Doubling(2, 2)
    other, second = torch.optim.Adam(live.parameters()), torch.Generator()
    report = holdfast.load_state(
        tmp_path / "a.pt",
        map_location=map_location,
        rng=True,
        **{"model": live, "optimizer": other, "generator": second},
    )
    assert same(live.state_dict(), model.state_dict())
    assert same(other.state_dict(), optimizer.state_dict())
    assert torch.equal(second.get_state(), generator.get_state())
    assert report.extra["x"].is_meta


def test_what_has_no_place_goes_where_the_caller_says(tmp_path) -> None:
    class Average:
        def __init__(self, values: list[float]) -> None:
            self.value = torch.tensor(values)

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state) -> None:
            self.value = state["value"]

    path = saved(tmp_path, model=model_of(), average=Average([1.0, 2.0]))
    live = Average([0.0, 0.0])
    holdfast.load_state(path, map_location="meta", model=model_of(), average=live)
    assert live.value.is_meta


def tied_on_meta() -> nn.Module:
    with torch.device("meta"):
        live = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    live[1].weight = live[0].weight
    return live


@pytest.mark.parametrize("map_location", ["cpu", lambda storage, _: storage])
def test_of_two_tensors_for_a_tied_one_without_memory_the_last_counts(
    map_location, tmp_path
) -> None:
    """As with torch, and with parameters that have memory."""
    state = {"0.weight": torch.ones(2, 2), "1.weight": torch.full((2, 2), 2.0)}
    torch.save(state, tmp_path / "a.pt")
    live = tied_on_meta()
    report = holdfast.load_state(tmp_path / "a.pt", map_location=map_location, model=live)
    assert live[0].weight is live[1].weight
    assert live[0].weight.unique().tolist() == [2]
    assert "the last one counts" in str(report)


def test_of_two_parts_that_share_a_parameter_without_memory_the_last_counts(tmp_path) -> None:
    with torch.device("meta"):
        whole = model_of()
    torch.manual_seed(0)
    first, second = model_of(), model_of()
    holdfast.save_state(tmp_path / "a.pt", whole=first, head=nn.Sequential(second[0]))
    holdfast.load_state(tmp_path / "a.pt", whole=whole, head=nn.Sequential(whole[0]))
    assert same(whole[0].state_dict(), second[0].state_dict())
    assert same(whole[1].state_dict(), first[1].state_dict())


_ABSENT = ["mps", "xla", "nonsense", "cuda:99", *([] if torch.cuda.is_available() else ["cuda"])]


@pytest.mark.parametrize("device", _ABSENT)
@pytest.mark.parametrize("kind", ["cpu", "meta"])
def test_a_device_that_is_not_there_is_a_short_letter(kind, device, tmp_path) -> None:
    path = saved(tmp_path, model=model_of())
    with torch.device(kind):
        live = model_of()
    with pytest.raises(UsageError, match=f"this machine cannot put tensors on '{device}'"):
        holdfast.load_state(path, map_location=device, model=live)
    assert next(live.parameters()).device.type == kind


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_without_memory_get_it_and_stay_the_same_parameters(
    kind, tmp_path
) -> None:
    """They keep weak references to their weights, with which torch swaps none."""
    model, x = kind(3, 4, 2), torch.randn(5, 1, 3)
    path = saved(tmp_path, model=model)
    with torch.device("meta"):
        live = kind(3, 4, 2)
    optimizer = torch.optim.SGD(live.parameters(), lr=1)
    holdfast.load_state(path, model=live)
    assert same(live.state_dict(), model.state_dict())
    assert torch.equal(live(x)[0], model(x)[0])
    assert all(
        a is b for a, b in zip(live.parameters(), optimizer.param_groups[0]["params"], strict=True)
    )
    live(x)[0].sum().backward()
    optimizer.step()
    assert not torch.equal(live(x)[0], model(x)[0])


class Refusing:
    def state_dict(self):
        return {"n": 1}

    def load_state_dict(self, state):
        raise ValueError("no")


def normed() -> nn.Module:
    return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(3, 2)), nn.LSTM(2, 2))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parameters_that_torch_cannot_swap_are_replaced(tmp_path) -> None:
    """Weight normalisation hangs a graph on them, as ``load_state_dict(assign=True)`` knows."""
    model, x = normed(), torch.randn(1, 3)
    path = saved(tmp_path, model=model)
    with torch.device("meta"):
        live = normed()
    holdfast.load_model(path, live)
    assert same(live.state_dict(), model.state_dict())
    assert torch.equal(live(x)[0], model.eval()(x)[0])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_optimizer_of_replaced_parameters_is_refused_and_nothing_has_changed(tmp_path) -> None:
    model = normed()
    path = saved(tmp_path, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1))
    with torch.device("meta"):
        live = normed()
    before = list(live.parameters())
    optimizer = torch.optim.SGD(live.parameters(), lr=0.5)
    with pytest.raises(MismatchError) as caught:
        holdfast.load_state(path, model=live, optimizer=optimizer)
    assert str(caught.value) == (
        "'optimizer' steps 2 parameters on the meta device that others had to take the place of, "
        "as something holds on to them; nothing was changed\n"
        "  found the first has the shape (2, 1)\n"
        "  Load the model by itself, make the optimizer then, and load its state."
    )
    assert all(a is b and a.is_meta for a, b in zip(live.parameters(), before, strict=True))
    assert optimizer.param_groups[0]["lr"] == 0.5
    holdfast.load_model(path, live)  # and it can be loaded after that
    assert same(live.state_dict(), model.state_dict())


def test_tensors_are_made_where_they_belong_whatever_the_default_device_is(tmp_path) -> None:
    """``torch.set_default_device`` and ``with torch.device(...)`` are for the caller's tensors."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    live = model_of()
    other = torch.optim.Adam(live.parameters())
    wide = torch.arange(64.0).view(8, 8)
    views = {"a": wide[:, 1], "b": wide[:, 3], "sparse": torch.eye(3).to_sparse()}
    with torch.device("meta"):
        parts = {"model": model, "optimizer": optimizer}
        holdfast.save_state(tmp_path / "a.pt", extra=views, **parts)
        report = holdfast.load_state(tmp_path / "a.pt", rng=True, model=live, optimizer=other)
        loaded = holdfast.load(tmp_path / "a.pt")
        with holdfast.open(tmp_path / "a.pt") as checkpoint:
            one = checkpoint.tensor("model.0.weight")
        holdfast.load_state(tmp_path / "a.pt", cast=True, model=model_of().double())
    assert same(live.state_dict(), model.state_dict())
    assert same(other.state_dict(), optimizer.state_dict())
    assert torch.equal(one, model[0].weight)
    assert torch.equal(loaded["extra"]["b"], wide[:, 3])
    assert torch.equal(report.extra["sparse"].to_dense(), torch.eye(3))


def test_a_count_that_an_old_file_lacks_begins_at_zero_without_memory(tmp_path) -> None:
    """As with ``load_state_dict(assign=True)``."""
    model = model_of()
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "a.pt")
    with torch.device("meta"):
        live = model_of()
    holdfast.load_state(tmp_path / "a.pt", model=live)
    assert same(live.state_dict(), model.state_dict())
