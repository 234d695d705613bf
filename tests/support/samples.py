"""One file of each format, written by the program whose format it is, and what that reads again.

``write_all(folder)`` writes them; each has the tensors that the oracle (torch itself, safetensors,
onnx) reads from it, by the names that holdfast gives them.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sample:
    """A file or folder of one format; ``part`` is what convert takes of it.

    ``format`` is what ``show`` calls it, ``status`` what ``verify`` says of it, ``is_clean``
    whether ``scan`` finds nothing outside the closed table.
    """

    path: Path
    format: str
    tensors: Tensors
    status: str = "good"
    part: str | None = None
    is_clean: bool = True
    weights: Tensors = field(default_factory=dict)


class Net(torch.nn.Module):
    """A small model with parameters, buffers and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.out = torch.nn.Linear(4, 7, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(x))


def weights() -> Tensors:
    """Tensors of many types and views."""
    base = torch.randn(6, 8)
    return {
        "f64": torch.randn(3, dtype=torch.float64),
        "f32.t": base.t(),
        "f32.slice": base[1:4, ::2],
        "f16": torch.randn(5).half(),
        "bf16": torch.randn(5).bfloat16(),
        "fp8": torch.randn(5).to(torch.float8_e4m3fn),
        "i64": torch.arange(4),
        "u8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "c64": torch.randn(3, dtype=torch.complex64),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
    }


def flat(tree: Any, prefix: str = "") -> Tensors:
    """The tensors of a tree by their dotted names."""
    if isinstance(tree, torch.Tensor):
        return {prefix: tree.detach()}
    pairs = tree.items() if isinstance(tree, dict) else ()
    if isinstance(tree, list | tuple):
        pairs = enumerate(tree)
    found: Tensors = {}
    for key, value in pairs:
        found.update(flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return found


def _torch_zip(path: Path) -> Sample:
    torch.save(weights(), path)
    return Sample(path, "torch_zip", flat(torch.load(path, weights_only=True)))


def _no_crc(path: Path) -> Sample:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights(), path)
    finally:
        torch.serialization.set_crc32_options(True)
    return Sample(path, "torch_zip", flat(torch.load(path)), status="unknown")


def _big_endian(path: Path) -> Sample:
    tensors = {"a": torch.randn(5), "b": torch.arange(4), "c": torch.randn(3, dtype=torch.cfloat)}
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    widths = {"data/0": "<f4", "data/1": "<i8", "data/2": "<f4"}
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data, inner = old.read(name), name.partition("/")[2]
            if inner in widths:
                data = np.frombuffer(data, widths[inner]).byteswap().tobytes()
            new.writestr(name, b"big" if inner == "byteorder" else data)
    return Sample(path, "torch_zip", flat(torch.load(path)))


def _training(path: Path) -> Sample:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(saved, path)
    loaded = torch.load(path)
    return Sample(path, "torch_zip", flat(loaded), part="model", weights=flat(loaded["model"]))


def _whole(path: Path) -> Sample:
    torch.save(Net(), path)
    loaded = torch.load(path, weights_only=False)
    return Sample(path, "torch_zip", flat(dict(loaded.state_dict())), is_clean=False)


def _lightning(path: Path) -> Sample:
    state = {f"model.{name}": value for name, value in Net().state_dict().items()}
    saved = {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "hyper_parameters": argparse.Namespace(lr=0.1, name="net"),
    }
    torch.save(saved, path)
    loaded = torch.load(path, weights_only=False)
    return Sample(
        path, "torch_zip", flat(loaded), part="state_dict", is_clean=False,
        weights=flat(dict(loaded["state_dict"])),
    )  # fmt: skip


def _legacy(path: Path) -> Sample:
    tensors = weights()
    del tensors["fp8"]  # it has no class of storages, which this format needs
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return Sample(path, "torch_legacy", flat(torch.load(path)), status="unknown")


def _tar(path: Path) -> Sample:
    """As torch before 0.1.10 wrote it; the reader of ``torch.load`` is the oracle."""
    values = {"w": np.arange(6, dtype="<f4").reshape(2, 3), "n": np.arange(4, dtype="<i8")}
    kinds = {"w": torch.FloatStorage, "n": torch.LongStorage}
    storages, tensors = io.BytesIO(), io.BytesIO()
    pickle.dump(len(values), storages, protocol=2)
    pickle.dump(len(values), tensors, protocol=2)
    for key, (name, array) in enumerate(values.items()):
        pickle.dump((key, "cpu", kinds[name]), storages, protocol=2)
        storages.write(struct.pack("<q", array.size) + array.tobytes())
        pickle.dump((10 + key, key, _tensor_class(name)), tensors, protocol=2)
        steps = [step // array.itemsize for step in array.strides]
        tensors.write(struct.pack("<i4x", array.ndim))
        tensors.write(struct.pack(f"<{2 * array.ndim + 1}q", *array.shape, *steps, 0))
    pickle.dump([], storages, protocol=2)
    members = {"storages": storages, "tensors": tensors, "pickle": _tar_pickle(values)}
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data.getvalue())
            tar.addfile(info, io.BytesIO(data.getvalue()))
    loaded = torch.load(path, weights_only=False)
    return Sample(path, "torch_tar", flat(loaded), status="unknown")


def _tensor_class(name: str) -> Any:
    return torch.FloatTensor if name == "w" else torch.LongTensor


def _tar_pickle(values: dict[str, Any]) -> io.BytesIO:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return obj[1] if isinstance(obj, tuple) and obj[0] == "tensor" else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({n: ("tensor", str(10 + k)) for k, n in enumerate(values)})
    return buffer


def _plain_pickle(path: Path) -> Sample:
    """Tensors in a plain pickle carry a torch file each."""
    with path.open("wb") as file:
        pickle.dump({"w": torch.randn(3, 2), "n": [torch.arange(3)], "lr": 0.1}, file, protocol=2)
    with path.open("rb") as file:
        loaded = pickle.load(file)
    # torch's own _load_from_bytes would run what is in the bytes: scan says so.
    return Sample(path, "pickle", flat(loaded), status="unknown", is_clean=False)


def _gzipped(path: Path) -> Sample:
    with gzip.open(path, "wb") as file:
        torch.save(weights(), file)
    with gzip.open(path, "rb") as file:
        loaded = torch.load(io.BytesIO(file.read()))
    return Sample(path, "gzip of torch_zip", flat(loaded))


def _torchscript(path: Path) -> Sample:
    torch.jit.save(torch.jit.script(Net()), path)
    loaded = torch.jit.load(path)
    return Sample(path, "torchscript", flat(dict(loaded.state_dict())), is_clean=False)


def _exported(path: Path) -> Sample:
    torch.export.save(torch.export.export(Net().eval(), (torch.randn(3, 4),)), path)
    loaded = torch.export.load(path)
    return Sample(path, "exported", flat(dict(loaded.state_dict)), is_clean=False)


def _safetensors(path: Path) -> Sample:
    from safetensors.torch import load_file, save_file

    save_file({name: t.contiguous() for name, t in weights().items()}, path)
    return Sample(path, "safetensors", load_file(path), status="unknown")


def _sharded(path: Path) -> Sample:
    from safetensors.torch import load_file, save_file

    path.mkdir()
    named = {name: t.contiguous() for name, t in weights().items()}
    files = _split(named, "model-0000{}-of-00002.safetensors")
    for file, tensors in files.items():
        save_file(tensors, path / file)
    _write_index(path / "model.safetensors.index.json", files)
    found: Tensors = {}
    for file in files:
        found.update(load_file(path / file))
    return Sample(path, "safetensors_sharded", found, status="unknown")


def _sharded_bin(path: Path) -> Sample:
    path.mkdir()
    files = _split(weights(), "pytorch_model-0000{}-of-00002.bin")
    for file, tensors in files.items():
        torch.save(tensors, path / file)
    _write_index(path / "pytorch_model.bin.index.json", files)
    found: Tensors = {}
    for file in files:
        found.update(flat(torch.load(path / file)))
    return Sample(path, "torch_sharded", found)


def _split(tensors: Tensors, name: str) -> dict[str, Tensors]:
    items = list(tensors.items())
    return {name.format(n + 1): dict(items[n::2]) for n in range(2)}


def _write_index(path: Path, files: dict[str, Tensors]) -> None:
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def _model_folder(path: Path) -> Sample:
    from safetensors.torch import load_file, save_file

    path.mkdir()
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    model(torch.randn(1, 3)).sum().backward()
    optimizer.step()
    save_file(model.state_dict(), path / "model.safetensors")
    torch.save(optimizer.state_dict(), path / "optimizer.pt")
    (path / "trainer_state.json").write_text('{"global_step": 5}')
    (path / "README.md").write_text("# A model\n")
    tensors = {
        "model": load_file(path / "model.safetensors"),
        "optimizer": torch.load(path / "optimizer.pt"),
    }
    return Sample(
        path, "model_folder", flat(tensors), status="unknown", part="model",
        weights=flat(tensors["model"]),
    )  # fmt: skip


def _dcp(path: Path, **options: Any) -> Sample:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    model = Net()
    writer = dcp.FileSystemWriter(path, **options)
    dcp.save({"model": model.state_dict(), "epoch": 3}, storage_writer=writer, no_dist=True)
    single = path.with_suffix(".single")
    dcp_to_torch_save(path, single)
    loaded = torch.load(single, weights_only=False)
    single.unlink()
    return Sample(
        path, "dcp", flat(loaded), status="unknown", part="model", weights=flat(loaded["model"])
    )


def _dcp_safetensors(path: Path) -> Sample:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.filesystem import SerializationFormat

    tensors = {name: t.clone() for name, t in Net().state_dict().items()}
    del tensors["out.weight"]
    writer = dcp.FileSystemWriter(path, serialization_format=SerializationFormat.SAFETENSORS)
    dcp.save(tensors, storage_writer=writer, no_dist=True)
    return Sample(path, "dcp", tensors, status="unknown")


def _onnx(path: Path) -> Sample:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    arrays = {
        "w": np.random.default_rng(0).normal(size=(3, 4)).astype("f4"),
        "n": np.arange(5),
        "h": np.ones(3, "f2"),
    }
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    initializers.append(helper.make_tensor("typed", TensorProto.FLOAT, [2], [1.5, -2.0]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y], initializers)), path)
    loaded = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    tensors = {name: torch.from_numpy(array.copy()) for name, array in loaded.items()}
    return Sample(path, "onnx", tensors, status="unknown", is_clean=False)


WRITERS: dict[str, Callable[[Path], Sample]] = {
    "zip.pt": _torch_zip,
    "no_crc.pt": _no_crc,
    "big_endian.pt": _big_endian,
    "training.pt": _training,
    "whole.pth": _whole,
    "lightning.ckpt": _lightning,
    "legacy.pth": _legacy,
    "oldest.tar": _tar,
    "plain.pkl": _plain_pickle,
    "packed.pt.gz": _gzipped,
    "script.ts": _torchscript,
    "program.pt2": _exported,
    "model.safetensors": _safetensors,
    "sharded": _sharded,
    "sharded_bin": _sharded_bin,
    "model_folder": _model_folder,
    "dcp": _dcp,
    "dcp_safetensors": _dcp_safetensors,
    "model.onnx": _onnx,
}


def write(name: str, folder: Path) -> Sample:
    """Write one sample into a folder."""
    torch.manual_seed(0)
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    return WRITERS[name](path)
