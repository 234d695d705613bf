"""A record that holdfast did not write: what it says of NumPy is compared, never carried out."""

from __future__ import annotations

import copy
import json
import zipfile

import numpy as np
import pytest
import torch

import holdfast
from holdfast.errors import RefusedError
from holdfast.state.equal import same


def with_note(path, pointer: str, note: str) -> None:
    """The same checkpoint with another note in its record; every CRC is right."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            if name.endswith("holdfast.json"):
                record = json.loads(data)
                record["converted"][pointer] = note
                data = json.dumps(record).encode()
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("pointer", "note"),
    [
        ("/extra/array", "numpy.ndarray M8[25s/0] C"),  # numpy.dtype divides by zero, uncaught
        ("/extra/array", "numpy.ndarray f4,O C"),
        ("/extra/array", "numpy.ndarray >f4 X"),
        ("/extra/array", "numpy.float32"),
        ("/extra/number", "numpy.M8[25s/0]"),
        ("/extra/number", "numpy.object"),
        ("/extra/number", "numpy.nope"),
        ("/extra/number", "numpy.ndarray"),
        ("/extra/number", "bytes"),  # bytes(2**40) would take a terabyte
        ("/extra/number", "numpy.int8"),
        ("/extra/number", "gibberish"),
        ("/extra/text", "numpy.float64"),
    ],
)
def test_notes_that_holdfast_does_not_write_are_refused(pointer, note, tmp_path):
    path = tmp_path / "a.pt"
    extra = {"array": np.ones(3, np.float32), "number": 1 << 40, "text": "nine"}
    holdfast.save_state(path, model=torch.nn.Linear(2, 2), extra=extra)
    with_note(path, pointer, note)
    live = torch.nn.Linear(2, 2)
    before = copy.deepcopy(live.state_dict())
    with pytest.raises(RefusedError) as caught:
        holdfast.load_state(path, model=live)
    kind = {"array": "Tensor", "number": "int", "text": "str"}[pointer.rpartition("/")[2]]
    assert str(caught.value) == (
        "refused: the record notes which values were NumPy's, and nothing else\n"
        f"  in {path}, member 'holdfast.json'\n"
        f"  found {note!r} for {kind}\n"
        "  It was not written by holdfast: load(path) gives what is in the file as it is."
    )
    assert same(before, live.state_dict())


def test_notes_that_fit_are_followed(tmp_path):
    path = tmp_path / "a.pt"
    holdfast.save_state(path, model=torch.nn.Linear(2, 2), extra={"number": 5})
    with_note(path, "/extra/number", "numpy.int8")
    found = holdfast.load_state(path, model=torch.nn.Linear(2, 2)).extra["number"]
    assert (type(found), found) == (np.int8, 5)
