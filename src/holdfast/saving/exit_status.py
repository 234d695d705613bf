"""The exit status of a process that is exiting already."""

from __future__ import annotations

import ctypes
import os


def fail() -> None:
    """Make the status of this process 1, whatever else is still to run while it exits.

    Python has fixed the status by now and only the C library can change it: what is registered
    there runs last first, and after all of Python's own (``__cxa_atexit``, Itanium C++ ABI). Where
    it has no such function the process ends here.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    register = getattr(library, "__cxa_atexit", None)
    if register is None:
        os._exit(1)
    register.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    for name, argument in (("_exit", 1), ("fflush", None)):
        register(ctypes.cast(getattr(library, name), ctypes.c_void_p), argument, None)
