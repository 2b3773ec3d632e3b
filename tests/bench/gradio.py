"""What the Gradio front end takes: the mask editor, the admin page, a Space's start.

`make bench-gradio` writes `build/bench/gradio.json`; `PART=NAME` measures one part alone. Real Chromium,
servers in processes of their own.
"""

from tests.bench.modules import measure_parts

if __name__ == "__main__":
    measure_parts("gradio")
