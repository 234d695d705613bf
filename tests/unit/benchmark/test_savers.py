"""Each way of saving saves what torch would: read back and compared."""

from __future__ import annotations

import copy

import pytest
import torch
from benchmark_samples import tiny
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load

from holdfast.benchmark import choosing, names, peers, savers
from holdfast.benchmark.savers import InFlight, Saver
from holdfast.benchmark.workloads import Workload

HERE = [kind for kind in choosing.SAVERS if kind().why_not() is None]
TORCH_FILES = (savers.TorchSave, savers.TorchSaveAndRename, savers.SaveState, savers.RunSave)


def save(saver: Saver, folder):
    """Save twice, as a second save goes other ways; what the second wrote, and the workload."""
    workload = tiny()
    saver.open(workload, folder / "own")
    try:
        for number in range(2):
            path = folder / f"saved-{number}"
            with torch.no_grad():
                workload.parts["model"][0].weight += 1
            flight = saver.begin(workload, path)
            flight.wait()
            assert flight.is_done()
            yield_path = path if path.exists() else max((folder / "own").glob("*.pt"))
            if number == 0:
                saver.clean(path)
                assert not yield_path.exists()
    finally:
        saver.close()
    return yield_path, workload


def assert_same(found, wanted) -> None:
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            assert_same(found[key], wanted[key])
    else:
        assert found == wanted


@pytest.mark.parametrize("kind", HERE)
@pytest.mark.usefixtures("quiet")
def test_what_was_saved_is_the_state(kind, tmp_path) -> None:
    path, workload = save(kind(), tmp_path)
    if kind is savers.Safetensors:
        from safetensors.torch import load_file

        assert_same(dict(sorted(load_file(path).items())), dict(sorted(workload.tensors().items())))
    elif issubclass(kind, peers.DcpSave):
        found = copy.deepcopy(workload.state())
        for tensor in found["model"].values():
            tensor.zero_()
        dcp_load(found, checkpoint_id=path, no_dist=True)
        assert_same(found, workload.state())
    elif issubclass(kind, TORCH_FILES):
        found = torch.load(path, weights_only=True)
        assert_same({name: found[name] for name in workload.parts}, workload.state())
    else:  # a folder of another library: the weights are in it
        assert any(each.is_file() for each in path.rglob("*"))


def test_the_usual_ways_can_be_measured_everywhere() -> None:
    found = {kind.name for kind in HERE}
    assert {names.TORCH_SAVE, names.SAVE_STATE, names.RUN_SAVE, names.SAFETENSORS} <= found
    assert {names.DCP_SAVE, names.DCP_ASYNC, names.DCP_ASYNC_KEPT} <= found


def test_checksums_are_on_again_afterwards(tmp_path, workload) -> None:
    savers.TorchSaveWithoutCrc().begin(workload, tmp_path / "a.pt")
    assert torch.serialization.get_crc32_options()


def test_no_temp_stays(tmp_path, workload) -> None:
    savers.TorchSaveAndRename().begin(workload, tmp_path / "a.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


class Hungry(Saver):
    name = "hungry"
    copies = 2
    keeps = True

    def begin(self, workload, path) -> InFlight:
        raise AssertionError("it is only chosen")


class Sharing(Hungry):
    name = "sharing"
    shares = True


def test_what_does_not_fit_into_memory_is_said() -> None:
    room = choosing.Room(memory=float(100 << 20), shared=None)
    chosen, skipped = choosing.sort_out([Hungry(), Sharing()], 30 << 20, 1, room)
    assert [saver.name for saver in chosen] == ["hungry"]
    assert skipped == {"sharing": "needs 60 MiB of memory, 40 MiB are left"}


def test_what_does_not_fit_into_shared_memory_is_said() -> None:
    room = choosing.Room(memory=None, shared=float(64 << 20))
    chosen, skipped = choosing.sort_out([Hungry(), Sharing()], 64 << 20, 1, room)
    assert [saver.name for saver in chosen] == ["hungry"]
    assert skipped == {"sharing": "needs 128 MiB of shared memory, 64 MiB are left"}


def test_more_files_than_may_be_open_are_not_asked_for() -> None:
    room = choosing.Room(memory=None, shared=None, files=20_000)
    chosen, skipped = choosing.sort_out([Hungry(), Sharing()], 1, 10_000, room)
    assert [saver.name for saver in chosen] == ["hungry"]
    assert skipped == {"sharing": "needs 30,256 open files, 20,000 are allowed"}
    assert choosing.Room.here().files


def test_overlap_has_an_optimizer_to_wait_for(tmp_path) -> None:
    saver = savers.RunSaveOverlap()
    model = torch.nn.Linear(300, 300)
    saver.open(Workload("alone", {"model": model}), tmp_path / "own")
    saver.begin(Workload("alone", {"model": model}), tmp_path / "a").wait()
    assert set(torch.load(saver._pending.result().path, weights_only=True)) >= {"optimizer"}
    saver.close()


def test_the_rename_is_measured_with_the_tiny_model_only() -> None:
    assert names.TORCH_SAVE_RENAME in {saver.name for saver in choosing.choose(names.IRIS)}
    assert names.TORCH_SAVE_RENAME not in {saver.name for saver in choosing.choose(names.LARGE)}
