"""The process that restores, beside the one that serves the page: to stop a restoration is to end it, at any moment.

A request, and what is told of it, are lines of JSON on its standard input and output. Too little memory ends it and not
the page.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from hvae_jax.restoration.tiles import Progress
    from hvae_jax.web.job import Outcome, Request

LONGEST_LINE = 2**20

TOO_LARGE = "expected enough memory for this size, got too little; take a smaller picture or a part of it"


class Stopped(Exception):
    """A restoration was stopped by who had asked for it."""


class Worker:
    """The process, seen from the page: started when it is needed, again after it was stopped; one request at a time.

    Args:
        prior: what `--prior` names; None for the bundled one.
        waiting: requests that may wait for their turn.
    """

    def __init__(self, prior: str | None, waiting: int) -> None:
        self._prior, self._waiting = prior, waiting
        self._process: asyncio.subprocess.Process | None = None
        self._asked: list[tuple[str | None, asyncio.Task[Outcome]]] = []
        self._moved = asyncio.Condition()

    async def start(self) -> asyncio.subprocess.Process:
        """The running process, which loads the prior before it takes requests."""
        if self._process is None or self._process.returncode is not None:
            arguments = [] if self._prior is None else [self._prior]
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "hvae_jax.web.worker", *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LONGEST_LINE,
            )
        return self._process

    async def restore(
        self,
        request: Request,
        progress: Progress,
        ahead: Callable[[int], None] = lambda count: None,
        owner: str | None = None,
    ) -> Outcome:
        """Restore a photograph, in turn.

        Args:
            request: what is asked for.
            progress: told (done, count) of a picture in tiles.
            ahead: told how many are before it, down to 0.
            owner: who may `stop` it.

        Raises:
            ValueError: something does not fit, or too many wait, in a sentence.
            Stopped: its owner stopped it.
        """
        if len(self._asked) > self._waiting:
            raise ValueError(f"expected at most {self._waiting} restorations to wait, got one more; try again later")
        task = asyncio.ensure_future(self._in_turn(request, progress, ahead))
        self._asked.append((owner, task))
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled():
                raise Stopped from None
            task.cancel()  # it is who waits for it that was cancelled
            raise
        finally:
            self._asked.remove((owner, task))
            async with self._moved:
                self._moved.notify_all()

    async def stop(self, owner: str) -> None:
        """End somebody's restorations."""
        for other, task in self._asked:
            if other == owner:
                task.cancel()

    async def end(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _in_turn(self, request: Request, progress: Progress, ahead: Callable[[int], None]) -> Outcome:
        async with self._moved:
            while before := [task for _, task in self._asked].index(asyncio.current_task()):  # type: ignore[arg-type]
                ahead(before)
                await self._moved.wait()
        ahead(0)
        answered = False
        process = await self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(dataclasses.asdict(request)).encode() + b"\n")
            while line := await process.stdout.readline():
                told = json.loads(line)
                if "progress" in told:
                    progress(*told["progress"])
                    continue
                answered = True
                return _outcome(told)
            raise ValueError(TOO_LARGE)  # what else would end it is a signal
        finally:
            if not answered:
                await self.end()


def _outcome(told: dict[str, Any]) -> Outcome:
    from hvae_jax.web.job import Outcome

    if "error" in told:
        raise ValueError(told["error"])
    return Outcome(**told["outcome"])


def main() -> None:
    """Take requests until there are no more, which ends the process at once, whatever it does."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not look like an answer

    from hvae_jax.compile_cache import use_compile_cache

    use_compile_cache()
    import hvae_jax as hj

    prior = hj.load_prior(*sys.argv[1:])
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests.put,), daemon=True).start()
    while True:
        answer = _answer(requests.get(), prior, lambda done, count: _tell(answers, progress=(done, count)))
        _tell(answers, **answer)


def _listen(take: Callable[[str], None]) -> None:
    for line in sys.stdin:
        take(line)
    os._exit(0)  # the page is gone


def _tell(answers: TextIO, **what: Any) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


def _answer(line: str, prior: Any, progress: Progress) -> dict[str, Any]:
    from hvae_jax.web.job import Request, carry_out

    request = Request(**json.loads(line))
    try:
        return {"outcome": carry_out(request, prior, progress)._asdict()}
    except ValueError as error:
        return {"error": str(error)}
    except Exception as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):  # the latter by JAX
            return {"error": TOO_LARGE}
        traceback.print_exc()
        kind = type(error).__name__
        return {"error": f"something went wrong that is no mistake of yours ({kind}); the server's log has it"}


if __name__ == "__main__":
    main()
