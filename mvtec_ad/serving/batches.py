"""A single thread looks at images, some at a time: what waits meanwhile is taken together, and not too much may wait.

A model is as fast as its machine; more threads only take each other's memory. So requests queue, those that come in a
short window or while the model is busy share a pass, and when too many wait the next is told when to come again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mvtec_ad.serving.guard import RequestError

Look = Callable[[list[Any]], list[Any]]  # items -> a result for each, or the exception that it ended with


class Batches:
    """A queue before a model.

    Args:
        look: called in the thread with some items; gives a result or an exception for each.
        most: items that may wait.
        together: items that are looked at at once.
        window: seconds to wait for more, when nothing waits.
    """

    def __init__(self, look: Look, most: int, together: int = 8, window: float = 0.003) -> None:
        self.look, self.most, self.together, self.window = look, most, together, window
        self.queue: asyncio.Queue[tuple[Any, asyncio.Future]] = asyncio.Queue()
        self.pending: set[asyncio.Future] = set()  # of items that are not looked at yet, or just now
        self.ended = False
        self.seconds = 0.1  # that an item takes, smoothed
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.task: asyncio.Task | None = None

    @property
    def waiting(self) -> int:
        """Items that wait, those that are looked at among them."""
        return len(self.pending)

    def start(self) -> None:
        """Begin to take items, in the running event loop."""
        self.task = asyncio.create_task(self._run())

    def end(self) -> None:
        """Whoever waits hears that nothing comes any more."""
        self.ended = True
        for future in tuple(self.pending):
            if not future.done():
                future.set_exception(RequestError(503, "the service ends: try again when it is back", 10))

    async def stop(self) -> None:
        """Take no more; what the thread is at ends first."""
        if self.task:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self.pool.shutdown)

    async def results(self, items: Sequence[Any], seconds: float) -> list[Any]:
        """A result for each, in order.

        Raises:
            RequestError: 503 where too many wait already, or when they were not looked at in time.
            Exception: what the first that failed ended with.
        """
        if self.ended:
            raise RequestError(503, "the service ends: try again when it is back", 10)
        if self.waiting + len(items) > self.most:
            again = max(1, math.ceil(self.waiting * self.seconds))
            raise RequestError(503, f"{self.waiting} images wait already: try again in {again} s", again)
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self.pending.update(futures)
        for item, future in zip(items, futures, strict=True):
            future.add_done_callback(self._done)
            self.queue.put_nowait((item, future))
        try:
            return await asyncio.wait_for(asyncio.gather(*futures), seconds)
        except asyncio.TimeoutError as problem:
            raise RequestError(503, f"the images were not looked at in {seconds:g} s: try again later", 5) from problem
        finally:
            for future in futures:
                future.cancel()  # of those that nobody waits for any more

    def _done(self, future: asyncio.Future) -> None:
        self.pending.discard(future)
        if not future.cancelled():
            future.exception()  # has been looked at: gather tells of the first only

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.queue.get()]
            if self.queue.empty():
                await asyncio.sleep(self.window)
            while len(batch) < self.together and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            batch = [(item, future) for item, future in batch if not future.done()]
            if not batch:
                continue
            begun = time.perf_counter()
            try:
                results = await loop.run_in_executor(self.pool, self.look, [item for item, _ in batch])
            except Exception as problem:
                results = [problem] * len(batch)
            self.seconds += 0.2 * ((time.perf_counter() - begun) / len(batch) - self.seconds)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
