"""Pickles as data: an interpreter that never turns a name into a Python object."""
