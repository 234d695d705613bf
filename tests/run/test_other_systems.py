"""Import and Run work without what other systems lack; what weakens is said."""

from __future__ import annotations

import subprocess
import sys

import pytest

# One process imports torch, which takes seconds, and forks one child for each system.
_SCRIPT = """
import errno, io, logging, os, signal, stat, sys, traceback
from pathlib import Path
import torch

def no_folder_fsync():
    fsync = os.fsync
    def refusing(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(fd)
    os.fsync = refusing

REMOVE = {
    "all there": lambda: None,
    "no fcntl": lambda: sys.modules.__setitem__("fcntl", None),
    "no O_DIRECT": lambda: delattr(os, "O_DIRECT"),
    "no preadv": lambda: [delattr(os, name) for name in ("preadv", "pwritev", "pread", "pwrite")],
    "no SIGUSR1": lambda: delattr(signal, "SIGUSR1"),
    "no folder fsync": no_folder_fsync,
}

def work(folder):
    import holdfast
    log = io.StringIO()
    logging.basicConfig(stream=log, level=logging.WARNING, format="%(message)s")
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parts = {"model": model, "optimizer": optimizer}
    with holdfast.Run(folder, keep=holdfast.keep.latest(2), **parts) as run:
        for step in run.steps(4):
            model.weight.data.fill_(step)
            run.extra["step"] = step
            run.save(metrics={"loss": 1.0})
    (folder / "step-00000003.pt").write_bytes(b"PK")
    run = holdfast.Run(folder, **parts)
    assert run.resume() == 3 and float(model.weight[0, 0]) == 2.0
    assert run.extra == {"step": 2} and holdfast.verify(f"{folder}@2").ok
    assert torch.equal(holdfast.load(f"{folder}@2")["model"]["weight"], model.weight)
    run.pin(2)
    try:
        for step in run.steps(9):
            os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit as left:
        assert left.code == 75
    run.close()
    names = sorted(path.name for path in folder.iterdir())
    assert names == [".lock", "step-00000002.pin", "step-00000002.pt", "step-00000003.2.pt",
                     "step-00000003.pt"], names
    return log.getvalue()

for name in [*REMOVE, "none of them"]:
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            for remove in REMOVE.values() if name == "none of them" else [REMOVE[name]]:
                remove()
            log = work(Path(sys.argv[1]) / name)
            print(f"{name}: good{', no locks' if 'no locks' in log else ''}", flush=True)
        except BaseException:
            print(f"{name}: {traceback.format_exc()}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("systems")
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(folder)], capture_output=True, text=True
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "all there: good",
        "no fcntl: good, no locks",
        "no O_DIRECT: good",
        "no preadv: good",
        "no SIGUSR1: good",
        "no folder fsync: good",
        "none of them: good, no locks",
    ],
)
def test_import_and_run_work_without(answers, line):
    assert line in answers.splitlines(), answers
