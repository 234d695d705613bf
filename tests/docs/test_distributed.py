"""The script of docs/distributed.md under torchrun: trained, told to stop, started again."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import holdfast

TEXT = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    block, *_ = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    slower = block.replace(
        "        optimizer.step()\n", "        optimizer.step()\n        SLEEP\n"
    )
    file = tmp_path / "train.py"
    file.write_text(slower.replace("SLEEP", "__import__('time').sleep(0.02)"), encoding="utf-8")
    return file


def test_the_script_is_stopped_and_goes_on(script: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "net"
    with subprocess.Popen([*TORCHRUN, script], cwd=tmp_path, stderr=subprocess.DEVNULL) as job:
        for _ in range(3000):
            if (folder / "step-00000009.pt").exists():
                break
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
        assert job.wait(120) != 0
    stopped = holdfast.Run(folder).latest()
    assert stopped is not None
    assert stopped.step is not None
    assert 9 <= stopped.step < 199
    subprocess.run([*TORCHRUN, script], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    entries = holdfast.Run(folder).checkpoints()
    assert [entry.step for entry in entries] == [stopped.step, 197, 198, 199]
