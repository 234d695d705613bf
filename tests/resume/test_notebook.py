"""In a notebook a cell is run again, and a loop is interrupted: both go on where they were."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

GIVEN = """
import logging, sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)

def make():
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(20, 4), torch.randn(20, 1))
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return model, optimizer, DataLoader(data, batch_size=5, shuffle=True)

def train_one_epoch(model, optimizer, loader):
    for inputs, targets in loader:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
"""

# As a newcomer writes it: everything that belongs to the training in one cell, no `with`.
CELL = """
import holdfast

model, optimizer, loader = make()
run = holdfast.Run("run", model=model, optimizer=optimizer)
for epoch in run.steps(6):
    print("epoch", epoch)
    train_one_epoch(model, optimizer, loader)
    run.save()
print("trained:", [entry.step for entry in run.checkpoints()])
"""

# Until the notebook is interrupted, the epoch does not end.
SLOW = CELL.replace(
    "    run.save()",
    "    while epoch == 2 and not run.should_stop:\n        pass\n    run.save()",
)

PLAIN = """
kept = model
model, optimizer, loader = make()
for epoch in range(6):
    train_one_epoch(model, optimizer, loader)
print("same:", all(map(torch.equal, model.parameters(), kept.parameters())))
"""


class Notebook(NotebookClient):
    """A running notebook that is interrupted when a cell prints ``interrupt_at``."""

    interrupt_at: str | None = None

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if self.interrupt_at and self.interrupt_at in msg["content"].get("text", ""):
            self.interrupt_at = None
            self.interruption = asyncio.ensure_future(self.km.interrupt_kernel())
        return super().process_message(msg, cell, cell_index)

    def run(self, source: str) -> list[str]:
        """Run a cell; the lines it printed."""
        self.nb.cells.append(nbformat.v4.new_code_cell(source))
        index = len(self.nb.cells) - 1
        self.execute_cell(self.nb.cells[index], index)
        return self.printed()

    def printed(self) -> list[str]:
        outputs = self.nb.cells[-1].outputs
        return "".join(out.text for out in outputs if out.output_type == "stream").splitlines()


@pytest.fixture
def notebook(tmp_path: Path) -> Any:
    client = Notebook(
        nbformat.v4.new_notebook(),
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    with client.setup_kernel():
        client.run(GIVEN)
        yield client


def test_a_cell_that_is_run_twice_goes_on_where_it_was(notebook: Notebook) -> None:
    assert notebook.run(CELL.replace("steps(6)", "steps(3)")) == [
        f"WARNING No checkpoint in {folder(notebook)}, starting at 0",
        *("epoch 0", "epoch 1", "epoch 2"),
        "trained: [0, 1, 2]",
    ]
    assert notebook.run(CELL) == [
        f"INFO resumed from {folder(notebook)}/step-00000002.pt (step 2)",
        *("epoch 3", "epoch 4", "epoch 5"),
        "trained: [2, 3, 4, 5]",
    ]
    assert notebook.run(CELL) == [
        f"INFO resumed from {folder(notebook)}/step-00000005.pt (step 5)",
        "INFO Nothing left to do: 6 of 6",
        "trained: [2, 3, 4, 5]",
    ]
    assert notebook.run(PLAIN) == ["same: True"]


def folder(notebook: Notebook) -> Path:
    return Path(notebook.resources["metadata"]["path"]).resolve() / "run"


def test_an_interrupted_cell_saves_its_step_and_goes_on_when_run_again(notebook: Notebook) -> None:
    notebook.interrupt_at = "epoch 2"
    with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
        notebook.run(SLOW)
    assert notebook.printed()[-2:] == ["epoch 2", "WARNING stopping after step 2: SIGINT"]
    assert notebook.run(CELL)[1:] == ["epoch 3", "epoch 4", "epoch 5", "trained: [2, 3, 4, 5]"]
    assert notebook.run(PLAIN) == ["same: True"]


def test_a_loop_in_a_cell_of_its_own_goes_on_when_run_again(notebook: Notebook) -> None:
    before, loop, after = SLOW.partition("for epoch")
    notebook.run(before)
    notebook.interrupt_at = "epoch 2"
    with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
        notebook.run(loop + after)
    assert [line for line in notebook.run(loop + after) if not line.startswith("INFO")] == [
        *("epoch 3", "epoch 4", "epoch 5"),
        "trained: [2, 3, 4, 5]",
    ]
    assert notebook.run(PLAIN) == ["same: True"]


def test_an_error_in_the_body_leaves_a_notebook_that_can_be_interrupted(
    notebook: Notebook,
) -> None:
    failing = CELL.replace("    run.save()", "    run.save()\n    1 / (1 - epoch)")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebook.run(failing)
    notebook.interrupt_at = "busy"
    with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
        notebook.run("print('busy')\nwhile True: pass")
    notebook.interrupt_at = "epoch 2"
    with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
        notebook.run(SLOW)
    assert notebook.run(CELL)[-1] == "trained: [2, 3, 4, 5]"
    assert notebook.run(PLAIN) == ["same: True"]
