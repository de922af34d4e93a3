"""The threads behind prediction: order, bounded memory, errors, an early end."""

import threading
import time
from collections.abc import Generator

import pytest

from pipeline.predict.stream import Pipeline


def numbers(count: int | None, seen: list[int] | None = None) -> Generator[int, None, None]:
    index = 0
    while count is None or index < count:
        if seen is not None:
            seen.append(index)
        yield index
        index += 1


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "_read", "_run"))]


def pipeline(items, batch=3, load=list, infer=list, workers=2, live=False) -> Pipeline:
    return Pipeline(items, batch, load, infer, workers=workers, may_drop=lambda item: live)


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_order_is_kept_though_loading_takes_different_times(count: int) -> None:
    def load(batch: list[int]) -> list[int]:
        time.sleep(0.002 * (batch[0] % 4))
        return batch

    results = list(pipeline(numbers(count), load=load).results())
    assert [item for batch in results for item in batch] == list(range(count))
    assert [len(batch) for batch in results[:-1]] == [3] * (len(results) - 1)
    assert ours() == []


def test_no_more_is_read_than_fits_while_nobody_takes_results() -> None:
    seen: list[int] = []
    results = pipeline(numbers(None, seen), batch=2, workers=2).results()
    next(results)
    settled = -1
    while settled != len(seen):  # until the reader waits
        settled = len(seen)
        time.sleep(0.05)
    assert len(seen) <= 2 * (1 + 2 + 2 + 1)  # taken, on their way, and one batch in the reader's hands
    results.close()
    assert ours() == []


@pytest.mark.parametrize("stage", ["items", "load", "infer"])
def test_an_error_in_any_thread_reaches_the_caller_after_what_came_before(stage: str) -> None:
    def fail(batch: list[int]) -> list[int]:
        if batch[0] == 6:
            raise RuntimeError(f"broken {stage}")
        return batch

    def items() -> Generator[int, None, None]:
        yield from range(6)
        raise RuntimeError("broken items")

    functions = {stage: fail} if stage != "items" else {}
    results = pipeline(items() if stage == "items" else numbers(None), **functions).results()
    assert [next(results), next(results)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(RuntimeError, match=f"broken {stage}"):
        next(results)
    assert ours() == []


def test_leaving_early_ends_the_threads_and_closes_the_source() -> None:
    closed = []

    def items() -> Generator[int, None, None]:
        try:
            yield from numbers(None)
        finally:
            closed.append(True)

    results = pipeline(items()).results()
    next(results)
    results.close()
    assert closed == [True] and ours() == []


def test_a_live_source_drops_what_the_engine_has_no_time_for() -> None:
    go = threading.Event()

    def infer(batch: list[int]) -> list[int]:
        go.wait(30)
        return batch

    running = pipeline(numbers(200), batch=1, infer=infer, live=True)
    results = running.results()
    taken: list[list[int]] = []
    caller = threading.Thread(target=lambda: taken.extend(results))
    caller.start()
    deadline = time.monotonic() + 60
    while running.dropped < 196 and time.monotonic() < deadline:  # all 200 come while the engine holds the first
        time.sleep(0.01)
    go.set()
    caller.join()
    assert len(taken) == 4 and running.dropped == 196  # two workers and two more batches on their way
    assert taken == sorted(taken)


def test_only_what_may_be_dropped_is() -> None:
    """Batches of three: [0, 1, 2] and every other one below 30 hold an item that has to wait."""

    def infer(batch: list[int]) -> list[int]:
        time.sleep(0.01)
        return batch

    running = Pipeline(numbers(90), 3, list, infer, workers=1, may_drop=lambda item: item % 6 != 1 and item >= 30)
    taken = [item for batch in running.results() for item in batch]
    assert taken == sorted(taken) and len(taken) + running.dropped == 90
    assert set(range(30)) <= set(taken) and {item for item in range(30, 90) if item % 6 == 1} <= set(taken)
    assert running.dropped > 0
