"""One open checkpoint: what it holds, and its tensors one by one. No torch is needed."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import MissingExtraError, UsageError
from holdfast.io.source import Source
from holdfast.report.choosing import ByName
from holdfast.report.summary import Summary, summarize
from holdfast.spec.index import Index
from holdfast.spec.record import Record

# Imported where they are called: looking at headers needs none of it, and half the time so.
if TYPE_CHECKING:
    import numpy as np
    import torch
    from typing_extensions import Self

    from holdfast.arrays.read import Reader
    from holdfast.report.scan import ScanReport
    from holdfast.report.verify import VerifyReport


class Checkpoint:
    """One checkpoint, known from its headers alone; a tensor is read when it is asked for.

    The file stays open, so that all of it is read from one and the same file, whatever takes its
    name meanwhile; ``close()``, ``with``, or the end of the object closes it. It is read by
    position and never mapped: a file cut short underneath gives an error, no crash.
    """

    def __init__(self, path: Path, index: Index, source: Source) -> None:
        self.path, self.index = path, index
        self.source = source
        self._reader: Reader | None = None
        self._by_name: ByName | None = None
        self._close = weakref.finalize(self, source.close)

    @property
    def tree(self) -> Any:
        """Nested dict, list and tuple of plain values and tensor references."""
        return self.index.tree

    @property
    def record(self) -> Record | None:
        """What holdfast recorded when it saved it; None where other code did."""
        return self.index.record

    def names(self) -> list[str]:
        """The dotted names of all tensors and arrays, in the order of the file.

        Those of a model that was pickled whole are the names in its state dict, of its buffers
        that are not persistent, and of tensors in objects that it holds. Where several would bear
        one name, as keys may hold dots, each is in brackets: ``['encoder']['w']`` and
        ``['encoder.w']``.
        """
        return self._named().names()

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """One tensor as a NumPy array; its CRC is checked, and no other tensor is read.

        bf16, fp8 and fp6 are the types of ml_dtypes; ``complex32`` becomes complex64; quantized
        tensors become float32, dequantized; sparse ones dense; ``int1`` to ``int7`` int8 (uint8);
        bit types and packed fp4 are the bytes of the file. An expanded tensor is read-only.

        Raises:
            MissingPartError: nothing bears that name, or no tensor does, or several do.
            DamagedError: its bytes are not those that were saved.
            TruncatedError: the file ends before them.
            RefusedError: it is an array of objects, or a rule for hostile files is broken.
            UsageError: the checkpoint is closed, or NumPy has no such array (a meta tensor).
        """
        return self._reading().array(self._find(name))

    def text(self, name: str) -> str:
        """One tensor as ``print`` shows it in torch; of a large one only what is shown is kept.

        Raises like ``array``.
        """
        from holdfast.arrays.text import text_of

        return text_of(self._find(name), self._reading())

    def numbers(self, name: str) -> Any:
        """The elements of one tensor as JSON: nested lists; None above 10,000 elements.

        Numbers that are not finite are the strings NaN, Infinity, -Infinity; complex ones are
        pairs. Raises like ``array``.
        """
        from holdfast.arrays.text import numbers_of

        return numbers_of(self._find(name), self._reading())

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as torch has it, on the CPU (of a meta tensor: a meta tensor).

        Raises like ``array``, and:
            MissingExtraError: torch is not installed.
        """
        node = self._find(name)
        try:
            from holdfast.tensors.one import tensor
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise MissingExtraError(
                "Checkpoint.tensor() needs torch, which is not installed",
                cure='pip install "holdfast[torch]", or take a NumPy array: .array(name).',
            ) from error
        return tensor(self.index, self.source, node)

    def summary(self, *, name: str | None = None, grep: str | None = None) -> Summary:
        """What it holds, or what of it bears ``name`` or matches ``grep``, as facts.

        Raises:
            MissingPartError: nothing bears ``name``.
            UsageError: ``grep`` is no regular expression.
        """
        return summarize(self.index, name=name, grep=grep)

    def verify(self) -> VerifyReport:
        """Read all that has a CRC and say which members are not what they were when saved.

        Raises:
            TruncatedError: the file became shorter meanwhile.
            UsageError: the checkpoint is closed.
        """
        from holdfast.report.verify import verify_index

        self.check_open()
        return verify_index(self.index, self.source)

    def scan(self) -> ScanReport:
        """List what its pickles would call elsewhere, and say whether all of it is plain data.

        Raises:
            TruncatedError: the file became shorter meanwhile.
            UsageError: the checkpoint is closed.
        """
        from holdfast.report.crawl import scan_source

        self.check_open()
        return scan_source(self.source)

    def close(self) -> None:
        """Close the file; tensors can be read no more. A second call does nothing."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Checkpoint {str(self.path)!r}: {self.index.format}>"

    def _reading(self) -> Reader:
        from holdfast.arrays.read import Reader

        if self._reader is None:
            self._reader = Reader(self.index, self.source)
        return self._reader

    def _named(self) -> ByName:
        if self._by_name is None:
            self._by_name = ByName(self.index.tree)
        return self._by_name

    def _find(self, name: str) -> Any:
        node = self._named().find(name, self.index.file)
        self.check_open()
        return node

    def check_open(self) -> None:
        """Go on only while the file is open.

        Raises:
            UsageError: it was closed.
        """
        if not self._close.alive:
            raise UsageError(
                "this checkpoint is closed: its tensors can be read no more",
                file=self.path,
                cure="Read inside the with block, or open it again.",
            )
