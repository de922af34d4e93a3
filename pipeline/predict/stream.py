"""Threads that keep an engine busy: one reads, some decode and preprocess, one runs the engine; order is kept."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Failure:
    """The exception that ended a thread, for the caller to raise."""

    error: BaseException


class _End:
    """Marks the end of a queue."""


class Pipeline(Generic[Item, Loaded, Result]):
    """`results` gives `infer(load(batch))` for every batch of `items`, in order.

    `load` runs on `workers` threads, `infer` on one, and `items` are read on another. At most `workers` + 2 batches are in
    work at any time, so memory does not grow with the number of items. A batch that comes when there is no place waits for
    one; if `may_drop` is true for all its items (frames of a camera, which does not wait), it is dropped instead, and its
    items are counted in `dropped`.
    """

    def __init__(
        self,
        items: Generator[Item, None, None],
        batch: int,
        load: Callable[[list[Item]], Loaded],
        infer: Callable[[Loaded], Result],
        *,
        workers: int,
        may_drop: Callable[[Item], bool],
    ):
        self.dropped = 0
        self._items, self._batch, self._load, self._infer, self._may_drop = items, batch, load, infer, may_drop
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._free = threading.Semaphore(workers + 2)
        self._stop = threading.Event()
        self._loading: SimpleQueue[Future[Loaded] | _Failure | _End] = SimpleQueue()
        self._results: SimpleQueue[Result | _Failure | _End] = SimpleQueue()
        self._threads = [threading.Thread(target=target, name=target.__name__) for target in (self._read, self._run)]

    def results(self) -> Generator[Result, None, None]:
        """Start the threads, and end them when closed or exhausted; call it only once. An exception of a thread is raised
        here."""
        for thread in self._threads:
            thread.start()
        try:
            while not isinstance(result := self._results.get(), _End):
                if isinstance(result, _Failure):
                    raise result.error
                self._free.release()
                yield result
        finally:  # also when the caller leaves early, by ctrl-C or `break`
            self._stop.set()
            self._free.release()  # wakes a reader that waits for a place, so that it sees `_stop`
            for thread in self._threads:
                thread.join()
            self._pool.shutdown(cancel_futures=True)

    def _read(self) -> None:
        try:
            self._read_batches()
        except BaseException as error:  # raised again where the results are read
            self._loading.put(_Failure(error))
        finally:
            self._items.close()
            self._loading.put(_End())

    def _read_batches(self) -> None:
        batch: list[Item] = []
        for item in self._items:
            if self._stop.is_set():
                return
            batch.append(item)
            if len(batch) == self._batch:
                self._submit(batch)
                batch = []
        if batch:
            self._submit(batch)

    def _submit(self, batch: list[Item]) -> None:
        if not self._free.acquire(blocking=not all(map(self._may_drop, batch))):
            self.dropped += len(batch)
        elif not self._stop.is_set():
            self._loading.put(self._pool.submit(self._load, batch))

    def _run(self) -> None:
        while not isinstance(loading := self._loading.get(), _End):
            if isinstance(loading, _Failure):
                self._results.put(loading)
            elif self._stop.is_set():
                loading.cancel()
            else:
                try:
                    self._results.put(self._infer(loading.result()))
                except BaseException as error:  # raised again where the results are read
                    self._results.put(_Failure(error))
        self._results.put(_End())
