"""Learning that the server is told to stop, while it still waits for requests to end.

The lifespan's end comes only after them, and a stream of events has no end of its own.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def told_to_stop(then: Callable[[], None]) -> Iterator[None]:
    """Call ``then`` in the event loop at SIGINT or SIGTERM, before whoever handled them so far."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's alone
        return
    loop = asyncio.get_running_loop()
    earlier = {number: signal.getsignal(number) for number in _SIGNALS}

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(then)
        handler = earlier[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in _SIGNALS:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
