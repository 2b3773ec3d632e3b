"""A child for tests: the executor's process handling around a few tricks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataengine.errors import ConfigRefused, NonFinite
from pipelines.worker.child_main import serve
from pipelines.worker.process_group import fork_guarded

GRANDCHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)"


def run(task: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    match task["do"]:
        case "pid":
            return {"pid": os.getpid()}
        case "report":
            for progress in range(task["times"]):
                send({"event": "progress", "progress": progress})
            return {"reported": task["times"]}
        case "refuse":
            raise ConfigRefused("no good")
        case "explode":
            raise NonFinite("loss", 3)
        case "divide":
            return {"result": 1 / 0}
        case "die":
            os.kill(os.getpid(), task["signal"])
        case "exit":
            os._exit(task["status"])
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            grandchild = subprocess.Popen([sys.executable, "-c", GRANDCHILD])
            time.sleep(0.3)
            part = Path(task["pids"] + ".part")
            part.write_text(f"{os.getpid()} {grandchild.pid}")
            part.rename(task["pids"])
            time.sleep(120)
    return {}


if __name__ == "__main__":
    fork_guarded(int(sys.argv[1]), keep=int(sys.argv[2]))
    serve(int(sys.argv[2]), run)
