"""The exit status of a process that is exiting already."""

from __future__ import annotations

import ctypes
import os


def fail() -> None:
    """Make the status of this process 1, whatever else is still to run while it exits.

    Python has fixed the status by now and only the C library can change it: what is registered
    there runs last first, and after all of Python's own (``__cxa_atexit``, Itanium C++ ABI). glibc
    lets a handler call exit(3) again, with another status, and goes on with the handlers that are
    left; of others POSIX says nothing, and there the process ends without those of the C library.
    Where there is no such function it ends here.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    register = getattr(library, "__cxa_atexit", None)
    if register is None:
        os._exit(1)
    register.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    is_glibc = hasattr(library, "gnu_get_libc_version")
    calls = (("exit", 1),) if is_glibc else (("_exit", 1), ("fflush", None))
    for name, argument in calls:
        register(ctypes.cast(getattr(library, name), ctypes.c_void_p), argument, None)
