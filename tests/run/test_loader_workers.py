"""What the workers of a loader draw by themselves is not in any state: it is said, not hidden."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

import holdfast

LOST = (
    "not restored: the random generators inside the 2 workers of 'loader': the samples and their "
    "order are as they were, but random numbers drawn in the workers (augmentation) begin anew. "
    "With num_workers=0, or a generator seeded per sample, they go on too"
)


def said(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("not restored")]


def trained(folder, stop, **options):
    loader = StatefulDataLoader(list(range(8)), batch_size=2, **options)
    run = holdfast.Run(folder, model=nn.Linear(1, 1), loader=loader)

    def batches():
        while True:
            yield from loader

    stream, ids = batches(), []
    with run:
        for _ in run.steps(stop):
            ids.append(next(stream).tolist())
            run.save()
    return ids


@pytest.mark.parametrize(
    ("options", "steps", "is_lost"),
    [
        ({"num_workers": 2}, 2, True),
        ({"num_workers": 0}, 2, False),
    ],
)
def test_in_the_middle_of_an_epoch(tmp_path, caplog, options, steps, is_lost):
    trained(tmp_path, steps, **options)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        trained(tmp_path, steps + 1, **options)
    assert said(caplog) == ([LOST] if is_lost else [])


def test_a_loader_says_nothing_between_epochs_unless_its_workers_persist():
    between = {"_iterator_finished": True}
    from holdfast.state.parts import as_part

    data = list(range(4))
    plain = as_part("loader", StatefulDataLoader(data, num_workers=2))
    lasting = as_part("loader", StatefulDataLoader(data, num_workers=2, persistent_workers=True))
    assert plain.left_out(between) is None
    assert plain.left_out({"_iterator_finished": False}) is not None
    assert lasting.left_out(between) is not None


def test_a_plain_loader_with_lasting_workers_is_warned_of_in_the_letter():
    loader = torch.utils.data.DataLoader([1, 2])
    with pytest.raises(holdfast.errors.CaptureError) as caught:
        holdfast.Run("unused", model=nn.Linear(1, 1), loader=loader)
    assert "(but not with persistent_workers=True: they draw their seeds once" in str(caught.value)
