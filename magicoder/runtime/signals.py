"""Signals as a request that a long loop answers at its next safe point."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""From a person, from a machine that shuts down, from a scheduler that wants its machines back."""


class StopRequest:
    """Which signal asked for a stop; None while nobody did."""

    def __init__(self, on_request: Callable[[], None] | None = None) -> None:
        self.signal_number: int | None = None
        self._on_request = on_request

    def __bool__(self) -> bool:
        """Whether anybody asked."""
        return self.signal_number is not None

    def receive(self, signal_number: int, _frame: FrameType | None) -> None:
        """Take note of the first signal; a second SIGINT means now."""
        if self.signal_number is None:
            self.signal_number = signal_number
            if self._on_request is not None:
                self._on_request()
        elif signal_number == signal.SIGINT:
            raise KeyboardInterrupt


@contextmanager
def stop_request(on_request: Callable[[], None] | None = None) -> Iterator[StopRequest]:
    """Collect what asks for a stop for the length of the block; `on_request` is called when the first arrives."""
    request = StopRequest(on_request)
    former = {number: signal.signal(number, request.receive) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
