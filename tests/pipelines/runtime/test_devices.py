"""What a job reports of its device's memory."""

import subprocess
import sys

from pipelines.runtime.devices import memory_in_use


def test_the_memory_of_this_process_and_machine() -> None:
    memory = memory_in_use("cpu")
    assert 0 < memory["used"] < memory["total"]


def test_measuring_never_loads_torch() -> None:
    code = (
        "import sys; from pipelines.runtime.devices import memory_in_use\n"
        "print(memory_in_use('cuda:0'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["{}", "False"], done.stderr
