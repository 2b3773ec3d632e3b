"""The server's memory: all of its threads allocate from one arena of glibc."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

THREADS = """
import ctypes, sys, threading
from ui.server import share_one_arena

if sys.argv[2] == "shared":
    share_one_arena()
barrier = threading.Barrier(8)

def allocate():
    kept = [bytes(1000) for _ in range(1000)]
    barrier.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
libc.fclose.argtypes = (ctypes.c_void_p,)
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


def arenas(folder: Path, how: str) -> int:
    subprocess.run([sys.executable, "-c", THREADS, str(folder / how), how], check=True, timeout=60)
    return len(re.findall(r"<heap nr=", (folder / how).read_text()))


def test_threads_share_one_arena(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux") or not Path("/proc/self/maps").read_text().count("libc.so.6"):
        pytest.skip("arenas are glibc's")
    assert arenas(tmp_path, "own") > 1, "without it each thread has its own, so nothing would be proven"
    assert arenas(tmp_path, "shared") == 1
