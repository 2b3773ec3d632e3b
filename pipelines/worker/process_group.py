"""Child processes that never outlive their worker."""

import ctypes
import os
import select
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def fork_guarded(lifeline: int, keep: int) -> None:
    """Fork: returns in the child, which does the work; the parent guards it and never returns."""
    guard = os.getpid()
    child = os.fork()
    if child:
        os.close(keep)
        os.close(0)
        guard_child(lifeline, child)
    os.close(lifeline)
    die_with_parent()
    if os.getppid() != guard:  # it died before the death signal was set
        os._exit(1)


def guard_child(lifeline: int, child: int) -> NoReturn:
    """Kill the group when the lifeline closes; when the child exits, end the rest of the group and exit with
    its status."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        closed, _, _ = select.select([lifeline], [], [], 0.1)
        if closed:
            os.killpg(0, signal.SIGKILL)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            end_group(128 - code if code < 0 else code)


def end_group(code: int) -> NoReturn:
    """Send SIGTERM to the rest of the group, then exit; the worker kills what is left of it."""
    os.killpg(0, signal.SIGTERM)
    os._exit(code)


def die_with_parent() -> None:
    """Linux only, in addition to the lifeline: the kernel kills this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
