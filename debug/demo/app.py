"""The Gradio app: a file in, verdict and evidence out, nothing kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import, which reads it

import gradio as gr
from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from debug.demo.look import Looker, framed, verdict_part
from debug.words import PEOPLE_WARNING
from model.config import available_cores

TITLE = "Generated or real?"
_INTRODUCTION = f"""# {TITLE}

Drop a video or a sound of speech, or record one. It is looked at on this machine, sent nowhere, and deleted afterwards.

**{PEOPLE_WARNING}** A score nearer to 0 than 1.1 is inconclusive.
"""
_FONT = ["system-ui", "sans-serif"]  # of the machine: Gradio's own come from elsewhere
_WAITING = 8  # files in line; more are turned away
_NOT_THERE = '<p class="looked">no score: another page had the same file deleted; drop it again</p>'
_KEPT_SECONDS = 600  # of what can be downloaded
# Nothing on the page may ask another machine for anything.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
)
_STYLE = """
.looked .verdict { font-size: 1.8rem; font-weight: 700; margin: 0; }
.looked { background: #fff; color: #1a1a1a; padding: 1rem; border-radius: .5rem; overflow-wrap: anywhere; }
.looked p { margin: .4rem 0; color: inherit; }
.looked .verdict.band, .looked .verdict.none { color: #444; }
.looked .verdict.generated { color: #b34e00; } .looked .verdict.real, .looked .verdict.pristine { color: #005a8f; }
.scale { max-width: 34rem; margin: .8rem 0; }
.scale .line { position: relative; height: .8rem; border-radius: .4rem;
  background: linear-gradient(to right, #0072B2, #e8eef2 50%, #D55E00); }
.scale .middle { position: absolute; top: 0; bottom: 0; background: #c4c4c4; }
.scale .mark { position: absolute; top: -.3rem; bottom: -.3rem; width: .3rem; margin-left: -.15rem; background: #000; }
.scale .ends { display: flex; justify-content: space-between; font-size: .85rem; }
.evidence { width: 100%; height: 80vh; border: 1px solid #ccc; background: #fff; }
"""


def build_app(looker: Looker, *, max_bytes: int, hosts: list[str]) -> FastAPI:
    """hosts: names by which it may be called, so that no web page from elsewhere can call it by a name of its own."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)

    @app.middleware("http")
    async def forbid_other_machines(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    return gr.mount_gradio_app(
        app, build_blocks(looker), path="/", max_file_size=max_bytes, footer_links=[], show_error=True,
        theme=gr.themes.Default(primary_hue="blue", font=_FONT, font_mono=["monospace"]), css=_STYLE,
        ssr_mode=False, enable_monitoring=False, mcp_server=False, run_history=False,
    )  # fmt: skip


def build_blocks(looker: Looker) -> gr.Blocks:
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, _KEPT_SECONDS)) as blocks:
        gr.Markdown(_INTRODUCTION)
        with gr.Tabs():
            with gr.Tab("A file"):
                file = gr.File(label="Video or sound", elem_id="file")
            with gr.Tab("Record a video"):  # with its sound: Gradio would encode it anew to take that out
                options = gr.WebcamOptions(mirror=False)
                camera = gr.Video(
                    sources=["webcam"], label="Camera", elem_id="camera", height=360, include_audio=True,
                    webcam_options=options,
                )  # fmt: skip
            with gr.Tab("Record a voice"):
                voice = gr.Audio(sources=["microphone"], type="filepath", label="Microphone", elem_id="microphone")
        verdict = gr.HTML(elem_id="verdict")
        with gr.Row():
            page = gr.DownloadButton("Download the page", visible=False, elem_id="page")
            told = gr.DownloadButton("Download the verdict (JSON)", visible=False, elem_id="json")
        evidence = gr.HTML(elem_id="evidence")

        def look(path: str | None, progress: gr.Progress = gr.Progress()) -> Iterator[Any]:  # noqa: B008
            yield from _look(looker, path, progress, verdict, told, page, evidence)

        for source, event in ((file, file.upload), (camera, camera.change), (voice, voice.change)):
            event(
                look, source, [verdict, told, page, evidence], api_visibility="private", show_progress_on=verdict,
                concurrency_id="looks", concurrency_limit=available_cores(),
            ).then(lambda: None, None, source, api_visibility="private", show_progress="hidden")  # fmt: skip
    return blocks.queue(max_size=_WAITING, api_open=False)


def _look(
    looker: Looker, path: str | None, progress: gr.Progress, verdict: gr.HTML, told: gr.DownloadButton,
    page: gr.DownloadButton, evidence: gr.HTML,
) -> Iterator[Any]:  # fmt: skip
    """The verdict as soon as it is there, then the evidence. The file is deleted whatever happens."""
    if path is None:  # a recording's widget was emptied: what is shown stays
        yield gr.skip()
        return
    with tempfile.TemporaryDirectory() as name:  # what is yielded, Gradio has copied when it comes back
        folder, deadline = Path(name), looker.deadline()
        file = folder / Path(path).name
        try:
            os.link(path, file)  # of its own: Gradio gives equal files of two pages one place
        except FileNotFoundError:
            yield {verdict: _NOT_THERE}
            return
        try:
            yield {verdict: "", told: gr.update(visible=False), page: gr.update(visible=False), evidence: ""}
            progress(0.1, desc="reading and scoring")  # after the yield, which hides it
            found = looker.score(file, deadline)
            json_file = looker.write_json(file, found, folder)
            shown = verdict_part(file.name, found, looker.modality_of(file))
            yield {verdict: shown, told: gr.update(value=json_file, visible=True)}
            if found.score is None:
                return
            progress(0.4, desc="looking for the evidence")
            html_file = looker.write_page(file, folder, deadline)
            if html_file is None:
                yield {evidence: f'<p class="looked">No evidence: {looker.too_long}.</p>'}
            else:
                yield {evidence: framed(html_file), page: gr.update(value=html_file, visible=True)}
        finally:
            if os.path.exists(path) and os.path.samefile(path, file):  # not one that was dropped in the meantime
                os.unlink(path)
