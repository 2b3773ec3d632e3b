"""Child processes that never outlive their worker."""

import ctypes
import os
import select
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def fork_guarded(lifeline: int, keep: int) -> None:
    """Fork: the caller returns in the half that works; the other half minds and never returns."""
    minder = os.getpid()
    child = os.fork()
    if child:
        os.close(keep)
        os.close(0)
        guard_child(lifeline, child)
    os.close(lifeline)
    die_with_parent()
    if os.getppid() != minder:  # it went before we asked to be told
        os._exit(1)


def guard_child(lifeline: int, child: int) -> NoReturn:
    """Kill the group when the lifeline closes; end as the child ended, taking what it left behind along."""
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
    """Ask what is left of the group to end, then exit; the worker kills the rest of the group."""
    os.killpg(0, signal.SIGTERM)
    os._exit(code)


def die_with_parent() -> None:
    """Linux only, and only an extra: the kernel kills this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
