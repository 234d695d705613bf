"""What the tests of conversions share: a checkpoint as training scripts save it."""

from __future__ import annotations

from pathlib import Path

import pytest
import samples


@pytest.fixture
def training(tmp_path: Path) -> samples.Sample:
    """A model with a tied weight, its optimizer and the epoch."""
    return samples.write("training.pt", tmp_path)
