"""Letters about names: what comes close to one, and that several things bear it."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.errors import MissingPartError

#: Names that a mistyped one is compared with: the time for one comparison is about 0.1 ms.
_NAMES_COMPARED = 2000


def closest(name: str, names: Sequence[str]) -> list[str]:
    """Up to three of ``names`` that look like ``name``."""
    import difflib  # only mistakes need it

    return difflib.get_close_matches(name, names[:_NAMES_COMPARED], n=3)


def several(name: str, found: Sequence[str], file: str) -> MissingPartError:
    """The error for a name that is that of several paths; ``found`` has them in brackets."""
    return MissingPartError(
        f"several entries of this checkpoint are called {name!r}",
        file=file,
        wanted="one of their names in brackets, which tell keys from dots",
        found=", ".join(found[:5]),
        cure=f'Ask for one: "{found[0]}".',
    )
