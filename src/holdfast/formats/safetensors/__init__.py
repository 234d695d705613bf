"""safetensors, read and written."""

from __future__ import annotations

from holdfast.formats.safetensors.read import read_index

__all__ = ["read_index"]
