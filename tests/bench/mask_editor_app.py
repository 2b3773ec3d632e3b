"""A Gradio app with the mask editor, for the bench: `python -m tests.bench.mask_editor_app SIDE FILE`.

It prints its address. Every submitted value leaves a line in FILE: for each stroke, a row of `STROKE_STEP`
pixels, whether its end is there.
"""

import json
import sys
from pathlib import Path
from typing import Any

import gradio as gr

from tests.bench.annotate_server import artifact_map, png, soft_image
from ui.gradio.mask_editor import ArtifactMaskEditor

STROKE_STEP = 10
STROKE_END = 600


def main(side: int, file: Path) -> None:
    """Serve until the process ends."""
    task = {"image": png(soft_image(0, side)), "confidence": artifact_map(0, side)}

    def kept(value: Any) -> None:
        ends = value["label_map"][STROKE_STEP // 2 :: STROKE_STEP, STROKE_END] > 0
        with file.open("a") as lines:
            lines.write(json.dumps(ends.tolist()) + "\n")

    with gr.Blocks(analytics_enabled=False) as demo:
        editor = ArtifactMaskEditor(task, classes=["shape", "content", "watermark"], height=700)
        gr.Button("Keep").click(kept, editor, show_progress="hidden")
    _, url, _ = demo.launch(
        prevent_thread_lock=True, quiet=True, ssr_mode=False, run_history=False, server_name="127.0.0.1"
    )
    print(url, flush=True)
    demo.block_thread()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
