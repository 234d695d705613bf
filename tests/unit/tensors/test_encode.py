"""Any object becomes a pickle and storages; what cannot be saved is named with its place."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

from holdfast.errors import CaptureError
from holdfast.tensors.encode import encode, storage_bytes


def test_storages_are_numbered_as_first_met_and_written_once() -> None:
    a, b = torch.arange(4.0), torch.arange(6.0)
    encoded = encode({"b": b, "a": a, "view": b[2:], "again": a})
    assert [storage.nbytes() for storage in encoded.storages] == [24, 16]
    assert encoded.storages[0].data_ptr() == b.data_ptr()


def test_storages_are_referred_to_not_copied() -> None:
    tensor = torch.arange(4.0)
    [storage] = encode(tensor).storages
    tensor[0] = 9
    assert storage_bytes(storage)[:4] == torch.tensor([9.0]).numpy().tobytes()


def test_one_memory_under_two_dtypes_is_an_error() -> None:
    tensor = torch.arange(4.0)
    with pytest.raises(CaptureError) as caught:
        encode([tensor, tensor.view(torch.int32)])
    assert str(caught.value) == (
        "tensors that view one memory as different dtypes cannot be saved together\n"
        "  wanted one dtype (torch.float32), found also torch.int32\n"
        "  Save a clone of one of them: tensor.clone()."
    )


def test_an_unpicklable_object_is_named_with_its_path() -> None:
    with pytest.raises(CaptureError) as caught:
        encode({"model": {"w": torch.ones(2)}, "tools": [1, threading.Lock()]})
    assert str(caught.value) == (
        "an object of _thread.lock cannot be pickled, at 'tools.1'\n"
        "  found TypeError: cannot pickle '_thread.lock' object\n"
        "  Save its state instead (its state_dict(), numbers, text, tensors), or leave it out."
    )


class Refuses:
    """Raises an error of its own when it is pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("not today")


def test_an_error_of_the_objects_own_is_told() -> None:
    with pytest.raises(CaptureError, match="RuntimeError: not today") as caught:
        encode([Refuses()])
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "at '0'" in caught.value.what


def test_endless_nesting_is_an_error() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(CaptureError, match="RecursionError"):
        encode(nested)


@pytest.mark.parametrize(
    ("views", "referenced"),
    [
        (lambda base: [base], 4000),
        (lambda base: [base[10:20]], 40),
        (lambda base: [base[10:20], base[15:30]], 80),
        (lambda base: [base[::10]], 400),
        (lambda base: [base[:5], base[995:]], 40),
        (lambda base: [base[:1].expand(500)], 4),
    ],
)
def test_referenced_bytes_are_counted_once(views: Any, referenced: int) -> None:
    encoded = encode(views(torch.arange(1000.0)), notes_views=True)
    assert encoded.referenced == (referenced,)


def test_a_storage_saved_by_itself_is_referenced_whole() -> None:
    assert encode(torch.ones(4).untyped_storage(), notes_views=True).referenced == (None,)


def test_the_pickle_is_of_protocol_2() -> None:
    assert encode([1]).pickle == pickle.dumps([1], protocol=2)


def test_counting_views_refuses_nothing_that_torch_saves() -> None:
    """Lazy parameters have no shape, and subclasses may refuse to be asked."""

    class Shy(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is torch.Tensor.layout.__get__:
                raise TypeError("ask somebody else")
            return super().__torch_function__(function, types, args, kwargs or {})

    state = torch.nn.LazyLinear(3).state_dict()
    assert encode(state, notes_views=True).pickle == encode(state).pickle
    shy = torch.ones(3).as_subclass(Shy)
    globals()["Shy"] = Shy
    Shy.__qualname__, Shy.__module__ = "Shy", __name__
    assert len(encode([shy], notes_views=True).storages) == 1


def test_a_save_imports_nothing():
    """A process that is out of descriptors cannot: what a save needs is there before it."""
    code = (
        "import sys, tempfile, torch, holdfast\n"
        "model = torch.nn.Linear(2, 2)\n"
        "run = holdfast.Run(tempfile.mkdtemp(), model=model, keep=holdfast.keep.latest(1))\n"
        "run.resume()\n"
        "before = set(sys.modules)\n"
        "for step in range(3):\n"
        "    run.save(step, wait=True)\n"
        "run.close()\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "[]\n"
