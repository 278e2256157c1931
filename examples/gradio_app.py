"""An exported folder as a Gradio page, for a Hugging Face Space: ``python examples/gradio_app.py export/``.

Needs ``pip install gradio "zsad[onnx]"`` in an environment of its own: Gradio pins an older Pillow. It keeps uploads
in a temporary folder, which the page of ``zsad serve`` does not.
"""

import sys

import gradio as gr
from PIL import Image

from zsad.deploy import Runtime


def app(folder: str) -> gr.Interface:
    """Return the page of an exported folder."""
    model = Runtime(folder)

    def score(picture: Image.Image, class_name: str) -> tuple[float, Image.Image]:
        result = model.predict(picture, class_name, size=1024)
        return result.pred_score, result.overlay("image")

    return gr.Interface(
        score,
        [gr.Image(type="pil"), gr.Dropdown(model.classes, value=model.classes[0], label="What it shows")],
        [gr.Number(label="Score"), gr.Image(label="Heat map")],
        flagging_mode="never",
    )


if __name__ == "__main__":
    app(sys.argv[1]).launch()
