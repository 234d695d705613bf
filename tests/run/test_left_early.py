"""A loop that is left early after a signal: said, and `with run:` ends the process."""

from __future__ import annotations

import logging
import os
import signal

import pytest
from torch import nn

import holdfast


def left(run, how):
    for _ in run.steps(5):
        run.save()
        os.kill(os.getpid(), how)
        break


def test_break_after_a_signal_is_said(tmp_path, caplog):
    run = holdfast.Run(tmp_path, model=nn.Linear(1, 1))
    with caplog.at_level(logging.WARNING):
        left(run, signal.SIGTERM)
    assert caplog.messages[-1] == (
        "the loop was left in step 0, after SIGTERM: what the step had done by then is saved only "
        "if it called run.save(). `with run:` ends the process here; without it the program goes "
        "on."
    )
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("how", "leaving"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_with_run_leaves_after_a_break(tmp_path, how, leaving):
    run = holdfast.Run(tmp_path, model=nn.Linear(1, 1))
    with pytest.raises(leaving) as caught, run:
        left(run, how)
    if leaving is SystemExit:
        assert caught.value.code == 75
    with run:  # it is done with: the next block ends as it ends
        assert list(run.steps(1)) == []


def test_a_break_without_a_signal_is_nobodys_business(tmp_path, caplog):
    with holdfast.Run(tmp_path, model=nn.Linear(1, 1)) as run, caplog.at_level(logging.WARNING):
        caplog.clear()
        for _ in run.steps(5):
            break
    assert [m for m in caplog.messages if "left" in m] == []
