"""What happens on the page when something is chosen or pressed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import gradio as gr

from hvae_jax.web.choices import BLURS, EXAMPLES, KERNEL_FILE
from hvae_jax.web.job import Outcome, Request, read, show
from hvae_jax.web.serve import Limits
from hvae_jax.web.worker import Stopped, Worker

KEPT = 3600
"""Seconds for which results are kept; the page shows them until it is left."""


class Events:
    """The page's functions, each named for what it does; they return updates of components.

    Args:
        worker: what restores.
        limits: what the page takes.
        folder: where results go, for a while.
    """

    def __init__(self, worker: Worker, limits: Limits, folder: Path) -> None:
        self._worker, self._limits, self._folder = worker, limits, folder

    def look(self, path: str | None, task: str) -> tuple[Any, ...]:
        """Show a photograph that was chosen, or say why it is none: the file, the picture, the one to draw on."""
        picture = None
        if path is not None:
            try:
                picture = show(read(path, self._limits.megapixels), new_folder(self._folder) / "photograph")
            except ValueError as error:
                gr.Warning(about(error, path), duration=None, title="This cannot be read as a photograph")
                path = None
        drawn: Any = None if picture is None else {"background": picture, "layers": [], "composite": None}
        shown, canvas = visible(task, path)
        return path, gr.Image(picture, visible=shown), gr.ImageEditor(drawn, visible=canvas)

    def take(self, index: int) -> tuple[Any, ...]:
        """Choose an example, what happened to it, how and where; then as `look`, `arrange` and `arrange_blur`."""
        example = EXAMPLES[index]
        path, *pictures = self.look(example.path, example.task)
        blurs, factor, _ = arrange(example.task)
        holes = gr.File(example.mask, visible=example.mask is not None)
        usual = [number.usual for one in BLURS for number in one.numbers]
        how = (example.blur, *arrange_blur(example.blur), *usual)
        return path, example.task, *pictures, blurs, factor, holes, *how

    async def restore(
        self,
        photo: str | None,
        task: str,
        mask: str | None,
        drawn: dict[str, Any] | None,
        blur: str,
        kernel: str | None,
        factor: int,
        estimate: bool,
        noise: float,
        sure: bool,
        quality: str,
        light: str,
        session: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 -- how Gradio is told of it
        *numbers: float,
    ) -> tuple[Any, ...]:
        """Restore, and show what came of it; see `forget` for what is shown."""
        if photo is None:
            raise gr.Error(
                "First choose a photograph, or take an example.", print_exception=False, title="Not restored"
            )
        try:
            request = Request(
                photo=photo,
                folder=str(new_folder(self._folder)),
                task=task,
                kernel=kernel_text(blur, kernel, numbers) if task == "deblur" else None,
                factor=int(factor) if task == "sr" else None,
                mask=mask,
                strokes=tuple((drawn or {}).get("layers") or ()),
                noise_std=None if estimate else noise,
                quality=quality,
                light=light if task in ("deblur", "sr") else "display",
                uncertainty=sure,
                megapixels=self._limits.megapixels,
                memory=self._limits.memory,
            )

            def ahead(count: int) -> None:
                progress(0, desc=f"Waiting for {count} other{'s' * (count > 1)}" if count else "Restoring")

            outcome = await self._worker.restore(
                request,
                lambda done, count: progress((done, count), desc="Restoring", unit="tiles"),
                ahead,
                session.session_hash,
            )
        except Stopped:
            return forget("Stopped.")
        except ValueError as error:
            why = about(error, photo, kernel, mask)
            raise gr.Error(why, duration=None, print_exception=False, title="Not restored") from error
        return (
            (outcome.before, outcome.after),
            about(in_sentences(outcome), photo, kernel, mask),
            gr.DownloadButton(visible=False)
            if outcome.left
            else gr.DownloadButton(f"Download {Path(outcome.result).name}", value=outcome.result, visible=True),
            gr.Image(outcome.kernel, visible=outcome.kernel is not None),
            gr.Image(outcome.uncertainty, visible=outcome.uncertainty is not None),
        )

    async def end(self, session: gr.Request) -> None:
        """Stop what somebody's page waits for."""
        await self._worker.stop(str(session.session_hash))


def visible(task: str, path: str | None) -> tuple[bool, bool]:
    """Whether the photograph is shown to look at, and to draw on."""
    return path is not None and task != "inpaint", path is not None and task == "inpaint"


def arrange(task: str) -> tuple[Any, ...]:
    """Show what a task needs: of a blur, of super-resolution, of holes."""
    return gr.Group(visible=task == "deblur"), gr.Radio(visible=task == "sr"), gr.File(visible=task == "inpaint")


def arrange_pictures(task: str, path: str | None) -> tuple[Any, ...]:
    """Show the photograph to look at, or to draw on."""
    shown, canvas = visible(task, path)
    return gr.Image(visible=shown), gr.ImageEditor(visible=canvas)


def arrange_blur(label: str) -> tuple[Any, ...]:
    """Show what a kind of blur needs: the numbers of each, and a file."""
    return (*(gr.Group(visible=one.label == label) for one in BLURS), gr.File(visible=label == KERNEL_FILE))


def forget(words: str = "") -> tuple[Any, ...]:
    """Show nothing of a result: the slider, words, the download, the kernel, how sure it is."""
    return None, words, gr.DownloadButton(visible=False), gr.Image(None, visible=False), gr.Image(None, visible=False)


def in_sentences(outcome: Outcome) -> str:
    """How it went, and what did not fit: why, where the picture was left as it was."""
    if outcome.left:
        return f"**Not changed**: {'; '.join(outcome.warnings)}."
    said = f"{outcome.words[0].upper()}{outcome.words[1:]}."
    if outcome.warnings:
        said += "\n\n**What did not fit**\n\n" + "\n".join(f"- {warning}" for warning in outcome.warnings)
    return said


def kernel_text(label: str, file: str | None, numbers: tuple[float, ...]) -> str:
    """The kernel that was chosen; of all blurs' numbers, which follow one another, those of this one."""
    if label == KERNEL_FILE:
        if file is None:
            raise ValueError("expected a file with the kernel, got none")
        return file
    start = 0
    for one in BLURS:
        if one.label == label:
            return one.text(numbers[start : start + len(one.numbers)])
        start += len(one.numbers)
    raise ValueError(f"expected one of the blurs, got {label}")


def about(what: object, *paths: str | None) -> str:
    """A sentence that names files as people know them, without where they are kept."""
    sentence = str(what)
    for path in paths:
        if path is not None:
            sentence = sentence.replace(path, Path(path).name)
    return sentence


def new_folder(folder: Path) -> Path:
    """An empty folder for a result; those that were kept long enough are removed."""
    for old in folder.iterdir():
        with contextlib.suppress(OSError):  # another one has removed it
            if time.time() - old.stat().st_mtime > KEPT:
                shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=folder))
