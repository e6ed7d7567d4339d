"""Makes a process of ours another one: a clock that is wrong, a newer version, or a death at a chosen point.

Python imports this by itself in processes whose path begins with this folder; the environment says what is wanted.
"""

import importlib
import os
import pathlib
import time

SKEW = float(os.environ.get("OTHER_CLOCK", "0"))
VERSION = os.environ.get("OTHER_VERSION")
DIES_IN = os.environ.get("OTHER_DEATH")
"""`module:name`, the function whose call ends the process."""


class _Shifted:
    """A file's facts with the times this machine would have written."""

    def __init__(self, facts: os.stat_result) -> None:
        self._facts = facts

    def __getattr__(self, name: str) -> object:
        value = getattr(self._facts, name)
        return value + SKEW if name in {"st_mtime", "st_atime", "st_ctime"} else value


if SKEW:
    _time, _stat = time.time, pathlib.Path.stat
    time.time = lambda: _time() + SKEW
    pathlib.Path.stat = lambda self, **options: _Shifted(_stat(self, **options))
if VERSION:
    importlib.import_module("jobs.rows").SCHEMA_VERSION = int(VERSION)
if DIES_IN:
    _module, _, _name = DIES_IN.partition(":")
    setattr(importlib.import_module(_module), _name, lambda *_, **__: os._exit(9))
