"""The last process standing: kills the stack's process groups when the stack itself has died, even by `kill -9`.

It reads its standard input, `+PGID` and `-PGID` a line. End of input means that the parent is gone (the kernel closes
the pipe however it died), so every group still listed is killed. Only the standard library is imported.
"""

import os
import signal
import sys
from collections.abc import Iterable


def watch(lines: Iterable[str]) -> set[int]:
    """Follow the list until the input ends; the groups that were never taken off it."""
    groups: set[int] = set()
    for line in lines:
        number = int(line[1:])
        if line.startswith("+"):
            groups.add(number)
        else:
            groups.discard(number)
    return groups


def kill_group(group: int) -> None:
    """SIGKILL to every process of the group; nothing if there is none."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for left in watch(sys.stdin):
        kill_group(left)
