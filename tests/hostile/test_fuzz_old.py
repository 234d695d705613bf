"""Any bytes at all in the older formats: a value or a letter, in time, never all memory."""

from __future__ import annotations

import gzip
import io
import pickle
import time
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from tests.hostile.test_fuzz import _bounded_memory, mutated  # noqa: F401 (used by its name)
from tests.unit.formats.old_writers import archive
from tests.unit.formats.test_torch_tar import example

from holdfast.errors import HoldfastError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.report.paths import tensors_by_storage
from holdfast.report.verify import verify_index
from holdfast.tensors.load import load_file

BOUNDED = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def tree():
    base = torch.arange(12.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "weight": base.reshape(3, 4).t(),
            "parameter": torch.nn.Parameter(base[1:]),
            "sparse": torch.eye(3).to_sparse(),
            "quantized": torch.quantize_per_tensor(torch.rand(4), 0.1, 3, torch.quint8),
            "state": torch.nn.BatchNorm1d(2).state_dict(),
            "net": torch.nn.ReLU(),
            "values": [1, 2.5, None, "text", b"bytes", {1, 2}, torch.float32],
        }


def saved(obj, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer, **options)
    return buffer.getvalue()


LEGACY = saved(tree(), _use_new_zipfile_serialization=False)
PLAIN = {protocol: pickle.dumps(tree(), protocol) for protocol in (0, 2, 5)}
TAR = example().members()
GZIP = gzip.compress(saved({"w": torch.arange(6.0)}))
SMALL = saved({"w": torch.arange(6.0)}, _use_new_zipfile_serialization=False)


def survive(data: bytes) -> None:
    """Look, verify and load; only letters may be raised, and soon."""
    started = time.process_time()
    for options in ({"opaque": "keep"}, {"map_location": "meta"}):
        letter = ""
        try:
            with open_source(io.BytesIO(data)) as source:
                index = read_index(source)
                tensors_by_storage(index.tree)
                verify_index(index, source)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load_file(io.BytesIO(data), **options)
        except HoldfastError as error:
            letter = str(error)
        assert len(letter) < 20_000
    assert time.process_time() - started < 5


@pytest.mark.parametrize("data", [LEGACY, *PLAIN.values(), archive(TAR), GZIP, SMALL])
def test_the_originals_load(data):
    assert load_file(io.BytesIO(data), opaque="keep")


@BOUNDED
@given(mutated(LEGACY))
def test_changed_legacy_files(data):
    survive(data)


@BOUNDED
@given(mutated(SMALL))
def test_changed_small_legacy_files(data):
    survive(data)


@BOUNDED
@given(mutated(PLAIN[2]))
def test_changed_plain_pickles(data):
    survive(data)


@BOUNDED
@given(mutated(PLAIN[0]))
def test_changed_pickles_of_text(data):
    survive(data)


@BOUNDED
@given(mutated(PLAIN[5]))
def test_changed_pickles_of_the_newest_protocol(data):
    survive(data)


@BOUNDED
@given(mutated(archive(TAR)))
def test_changed_tars(data):
    survive(data)


@BOUNDED
@given(mutated(TAR["storages"]), mutated(TAR["tensors"]), mutated(TAR["pickle"]))
def test_changed_members_of_tars(storages, tensors, pickled):
    for changes in ({"storages": storages}, {"tensors": tensors}, {"pickle": pickled}):
        survive(archive({**TAR, **changes}))


@BOUNDED
@given(mutated(GZIP))
def test_changed_gzip_files(data):
    survive(data)


@BOUNDED
@given(mutated(SMALL))
def test_changed_files_in_right_gzip_files(data):
    survive(gzip.compress(data, 1))
