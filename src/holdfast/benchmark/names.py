"""The names of what is measured, which the measuring and the judging share."""

from __future__ import annotations

#: Limits of the machine.
WRITE = "plain direct write"
COPY = "one memory copy"
CRC = "CRC-32 (ISA-L)"
READ = "plain read"

#: Ways of saving.
TORCH_SAVE = "torch.save + fsync"
TORCH_SAVE_NO_CRC = "torch.save without CRC + fsync"
TORCH_SAVE_RENAME = "torch.save + fsync + rename + fsync of the folder"
SAFETENSORS = "safetensors + fsync"
DCP_SAVE = "dcp.save"
DCP_ASYNC = "dcp.async_save"
DCP_ASYNC_KEPT = "dcp.async_save, stager kept"
DCP_ASYNC_PINNED = "dcp.async_save, stager kept, pinned"
DCP_ASYNC_PROCESS = "dcp.async_save, process"
TORCH_CHECKPOINTING = "torch_checkpointing + fsync"
TORCH_CHECKPOINTING_ASYNC = "torch_checkpointing, async + fsync"
SAVE_STATE = "holdfast.save_state"
RUN_SAVE = "Run.save, background"
RUN_SAVE_OVERLAP = "Run.save, overlap"

#: Ways of loading.
TORCH_LOAD = "torch.load"
TORCH_INTO = "torch.load + load_state_dict"
TORCH_MMAP_INTO = "torch.load(mmap=True) + load_state_dict"
LOAD = "holdfast.load"
LOAD_STATE = "holdfast.load_state"

#: What they load into.
LIVE = "live parts"
FRESH = "fresh memory"

#: Workloads, as ``--only`` takes them.
LARGE = "large"
LARGER = "larger"
ADAM = "adam"
MANY = "many"
IRIS = "iris"
WORKLOADS = (LARGE, LARGER, ADAM, MANY, IRIS)
