"""Write small files with the torch and Python that run this script, old ones above all.

The samples beside this script were made so, each in an environment of its own elsewhere:

    python2.7, torch 1.4.0, numpy 1.16.6    python make_old_samples.py tests/data
    python3.7, torch 1.0.0, numpy 1.21.6    python make_old_samples.py tests/data
    python3.7, torch 1.5.0, numpy 1.21.6    python make_old_samples.py tests/data

All values follow from formulas, which tests/unit/formats/test_old_samples.py repeats.
"""

# Python 2 runs it too.
# ruff: noqa: PTH118, PTH123, UP031, UP036

import collections
import os
import pickle
import sys

import torch
from torch import nn

MADE_BY = "py%d.%d-torch%s" % (sys.version_info[0], sys.version_info[1], torch.__version__)


def state():
    base = torch.arange(24).float()
    made = collections.OrderedDict()
    made["grid"] = base.view(4, 6)
    made["turned"] = base.view(4, 6).t()
    made["row"] = base[6:12]
    made["double"] = torch.arange(5).double() / 4
    made["half"] = (torch.arange(5).float() / 4).half()
    made["long"] = torch.arange(5).long() * 10**12
    made["byte"] = torch.arange(5).byte()
    made["parameter"] = nn.Parameter(torch.arange(3).float() - 1)
    made["empty"] = torch.zeros(0, 3)
    made["epoch"] = 7
    made["rate"] = 0.5
    made["names"] = [b"caf\xe9".decode("latin1"), (1, None, True), {2: 3.0}]
    return made


def model():
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    for number, parameter in enumerate(made.parameters()):
        count = parameter.numel()
        values = torch.arange(count).float() / 8 + number
        parameter.data.copy_(values.view(parameter.size()))
    return made.eval()


def optimizer():
    net = model()
    made = torch.optim.SGD(
        [{"params": net[0].parameters()}, {"params": net[3].parameters(), "lr": 0.25}],
        lr=0.5,
        momentum=0.75,
    )
    for number, parameter in enumerate(net.parameters()):
        parameter.grad = torch.zeros(parameter.size()) + number
    made.step()
    return made.state_dict()


def main(folder):
    def path(kind, suffix):
        return os.path.join(folder, "%s-%s.%s" % (kind, MADE_BY, suffix))

    torch.save(state(), path("state", "pt"))
    torch.save(model(), path("model", "pt"))
    torch.save(optimizer(), path("optimizer", "pt"))
    with open(path("state", "pkl"), "wb") as file:
        pickle.dump(state(), file, 2)
    if sys.version_info[0] == 2:
        torch.save({"word": b"caf\xe9", "tensor": torch.arange(3)}, path("latin1", "pt"))
    if torch.__version__ >= "1.5":  # that of 1.4 no torch can read any more
        torch.save(state(), path("zip", "pt"), _use_new_zipfile_serialization=True)


if __name__ == "__main__":
    main(sys.argv[1])
