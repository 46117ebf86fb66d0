"""The page: what is on it, and which function is called when."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

import hvae_jax as hj
from hvae_jax.images.formats import READ_ONLY
from hvae_jax.web.choices import BLURS, EXAMPLES, FACTORS, KERNEL_FILE, MOST_NOISE, TASKS
from hvae_jax.web.events import KEPT, Events, arrange, arrange_blur, arrange_pictures, forget
from hvae_jax.web.serve import Limits
from hvae_jax.web.worker import Worker

STYLE = """
#kernel img, #uncertainty img, #shown img {width: 100%; height: 100%; object-fit: contain}
#kernel img {image-rendering: pixelated}
"""

GREETING = """# Restore a photograph

Say what happened to it, and compare. The photograph stays on the computer that serves this page."""

BEFORE_FIRST = "The result will be here. The first restoration of each size takes some seconds more."


class Inputs(NamedTuple):
    """What is chosen, from top to bottom."""

    photo: Any
    examples: Any
    shown: Any
    canvas: Any
    mask: Any
    task: Any
    blurs: Any
    blur: Any
    groups: list[Any]
    numbers: list[Any]
    kernel: Any
    factor: Any
    estimate: Any
    noise: Any
    sure: Any
    quality: Any
    light: Any
    go: Any
    stop: Any


class Outputs(NamedTuple):
    """What is shown, from top to bottom."""

    result: Any
    words: Any
    download: Any
    kernel: Any
    uncertainty: Any


def build(worker: Worker, limits: Limits, folder: Path) -> gr.Blocks:
    """The page.

    Args:
        worker: what restores.
        limits: what it takes.
        folder: where results go, for a while.
    """
    events = Events(worker, limits, folder)
    with gr.Blocks(title="Restore a photograph", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown(GREETING)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                chosen = _inputs()
            with gr.Column(scale=3, min_width=320):
                shown = _outputs()
        _connect(events, chosen, shown)
        page.unload(events.end)
    return page


def _inputs() -> Inputs:
    photo = gr.File(
        label="Photograph",
        file_types=["image", *hj.images.SUFFIXES, *READ_ONLY],
        height=150,
        elem_id="photograph",
    )
    examples = gr.Dataset(
        label="or an example",
        components=["textbox"],
        samples=[[example.label] for example in EXAMPLES],
        type="index",
        elem_id="examples",
    )
    shown = gr.Image(label="Photograph", interactive=False, buttons=[], visible=False, elem_id="shown")
    canvas = gr.ImageEditor(
        label="Paint over holes",
        visible=False,
        type="filepath",
        format="png",
        sources=(),
        transforms=(),
        layers=False,
        buttons=[],
        brush=gr.Brush(default_size=12, colors=["#ff2d55"], color_mode="fixed"),
        elem_id="canvas",
    )
    mask = gr.File(label="and/or a mask, black in holes", visible=False, height=150, elem_id="mask")
    task = gr.Radio(list(TASKS.items()), value="deblur", label="What happened to it?", elem_id="task")
    with gr.Group() as blurs:
        blur = gr.Dropdown(
            [one.label for one in BLURS] + [KERNEL_FILE], value=BLURS[0].label, label="How was it blurred?"
        )
        groups, numbers = [], []
        for one in BLURS:
            with gr.Group(visible=one is BLURS[0]) as group:
                numbers += [gr.Slider(n.least, n.most, n.usual, step=n.step, label=n.label) for n in one.numbers]
            groups.append(group)
        kernel = gr.File(label="Kernel: image, .npy, .npz, .mat, .txt, .csv", visible=False, height=150)
    factor = gr.Radio(list(FACTORS), value=2, label="How many times larger?", visible=False)
    with gr.Group():
        estimate = gr.Checkbox(True, label="Estimate the noise")
        noise = gr.Slider(0, MOST_NOISE, 5, step=0.05, label="Noise in grey levels of 255", visible=False)
    sure = gr.Checkbox(False, label="Also show how sure the result is (several times slower)", elem_id="sure")
    with gr.Accordion("More", open=False):
        quality = gr.Radio(["fast", "default", "best"], value="default", label="Quality")
        light = gr.Radio(
            [("the file's samples, as a program does", "display"), ("light, as a camera does", "linear")],
            value="display",
            label="What was averaged, where it is blurred or too small",
        )
    with gr.Row():
        go = gr.Button("Restore", variant="primary", elem_id="go", scale=2)
        stop = gr.Button("Stop", elem_id="stop", min_width=80)
    return Inputs(
        *(photo, examples, shown, canvas, mask, task, blurs, blur, groups, numbers),
        *(kernel, factor, estimate, noise, sure, quality, light, go, stop),
    )


def _outputs() -> Outputs:
    result = gr.ImageSlider(
        label="Before | after: drag the line",
        interactive=False,
        buttons=["fullscreen"],
        elem_id="result",
        max_height=640,
    )
    words = gr.Markdown(BEFORE_FIRST, elem_id="words")
    download = gr.DownloadButton("Download", visible=False, elem_id="download")
    with gr.Row():
        small = {"visible": False, "height": 240, "interactive": False}
        kernel = gr.Image(label="Kernel", buttons=[], min_width=140, elem_id="kernel", **small)
        uncertainty = gr.Image(
            label="How sure",
            buttons=["fullscreen"],
            min_width=240,
            scale=3,
            elem_id="uncertainty",
            **small,
        )
    return Outputs(result, words, download, kernel, uncertainty)


def _connect(events: Events, chosen: Inputs, shown: Outputs) -> None:
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    looked = [chosen.photo, chosen.shown, chosen.canvas]
    arranged = [chosen.blurs, chosen.factor, chosen.mask]
    gr.on([chosen.photo.upload, chosen.photo.clear], events.look, [chosen.photo, chosen.task], looked, **private)
    chosen.examples.click(
        events.take,
        [chosen.examples],
        [
            *(chosen.photo, chosen.task, chosen.shown, chosen.canvas, *arranged),
            *(chosen.blur, *chosen.groups, chosen.kernel, *chosen.numbers),
        ],
        **private,
    )
    chosen.task.input(arrange, [chosen.task], arranged, **private)
    chosen.task.input(arrange_pictures, [chosen.task, chosen.photo], [chosen.shown, chosen.canvas], **private)
    chosen.blur.input(arrange_blur, [chosen.blur], [*chosen.groups, chosen.kernel], **private)
    chosen.estimate.input(lambda known: gr.Slider(visible=not known), [chosen.estimate], [chosen.noise], **private)
    chosen.go.click(forget, None, [*shown], queue=False, **private)
    chosen.go.click(
        events.restore,
        [
            *(chosen.photo, chosen.task, chosen.mask, chosen.canvas, chosen.blur, chosen.kernel, chosen.factor),
            *(chosen.estimate, chosen.noise, chosen.sure, chosen.quality, chosen.light, *chosen.numbers),
        ],
        [*shown],
        api_name="restore",
        concurrency_limit=None,  # the worker has them wait
        show_progress_on=[shown.result],
    )
    chosen.stop.click(events.end, concurrency_limit=None, **private)
