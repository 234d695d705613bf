"""Folders of torch.distributed.checkpoint."""

from __future__ import annotations

from holdfast.formats.dcp.read import read_index

__all__ = ["read_index"]
