"""Serving the page: to this computer alone, or to others with a password; nothing is asked of any other host."""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import typer

POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; form-action 'self'; base-uri 'self'"
)
"""What a browser is told: whatever a page or Gradio's scripts ask for, there is no other host."""

QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",  # as `use_compile_cache` has it, for JAX sets another one, which processes inherit
}
"""The environment in which Gradio asks nothing of any other host either, and JAX is quiet."""

MOST_BYTES_PER_PIXEL = 16
"""Of a file that is uploaded: four channels of 32 bits."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the page takes.

    Attributes:
        megapixels: of a photograph, and of a result.
        waiting: restorations that may wait; others are refused.
        memory: GiB of a restoration; None for what there is.
    """

    megapixels: float = 30
    waiting: int = 10
    memory: float | None = None


def is_local(host: str) -> bool:
    """Whether only this computer reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    password: str | None = None,
    prior: str | None = None,
    limits: Limits | None = None,
    ready: Callable[[str], None] = typer.echo,  # which flushes, for logs
) -> None:
    """Serve the page until it is interrupted.

    Args:
        host: the address to listen at; "127.0.0.1" is this computer alone, "0.0.0.0" are all that it has.
        port: likewise; 0 for any that is free.
        password: that is asked for, with any name; None for none.
        prior: a prior's name or folder; None for the bundled one.
        limits: what the page takes.
        ready: told the page's address.

    Raises:
        ValueError: the extra `web` is missing, or there is no such prior.
        OSError: the address is taken, or none of this computer's.
    """
    os.environ.update(QUIET)
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="hvae-jax-web-", ignore_cleanup_errors=True))
        )
        os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
        try:
            import gradio  # noqa: F401
            import uvicorn
        except ImportError:
            raise ValueError("the web page needs gradio: pip install 'hvae_jax[web]'") from None
        if prior is not None:
            import hvae_jax as hj

            hj.load_prior(prior)  # to say now what is wrong with it
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = stack.enter_context(socket.create_server((host, port), family=family))
        app = application(folder, password=password, prior=prior, limits=limits, hosts=names(host, password))

        class Server(uvicorn.Server):
            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                logging.getLogger("uvicorn.error").disabled = True  # pages that are open are cut off, which is no error
                await super().shutdown(sockets)

        config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=1)
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listening.getsockname()[1]}")
        Server(config).run(sockets=[listening])


def names(host: str, password: str | None) -> list[str]:
    """By which a browser may call the page: without a password, those of this computer, so that no other page can."""
    return ["localhost", "127.0.0.1", "[::1]"] if is_local(host) and password is None else ["*"]


def application(
    folder: Path,
    *,
    password: str | None = None,
    prior: str | None = None,
    limits: Limits | None = None,
    hosts: list[str] | None = None,
) -> Any:
    """The page as an ASGI application.

    Args:
        folder: for what is uploaded and restored.
        password: see `serve`.
        prior: likewise.
        limits: likewise.
        hosts: names that a request may call it by; None for any.
    """
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from hvae_jax.web.page import STYLE, build
    from hvae_jax.web.worker import Worker

    limits = limits or Limits()
    worker = Worker(prior, limits.waiting)
    results = folder / "results"
    results.mkdir()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await worker.start()  # so that the first restoration does not wait for it
        yield
        await worker.end()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts or ["*"])
    app.add_middleware(Headers)
    return gr.mount_gradio_app(
        app,
        build(worker, limits, results),
        path="/",
        auth=None if password is None else Password(password),
        auth_message="Any name, and the password.",
        max_file_size=int(MOST_BYTES_PER_PIXEL * limits.megapixels * 1e6) + 2**20,
        footer_links=[],
        run_history=False,
        pwa=False,
        ssr_mode=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=STYLE,
    )


class Password:
    """Whether a password is the right one, in a time that does not tell how much of it is."""

    def __init__(self, password: str) -> None:
        self._password = password.encode()

    def __call__(self, name: str, password: str) -> bool:
        return hmac.compare_digest(password.encode(), self._password)


class Headers:
    """ASGI middleware that adds `POLICY` to every answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self._app(scope, receive, sending)
