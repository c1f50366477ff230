"""Turn signals into a request that a long loop answers at its next safe point."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Sent by a person, by a machine that shuts down, by a scheduler that reclaims its machines."""


class StopRequest:
    """The first signal that asked for a stop; None if there was none."""

    def __init__(self, on_request: Callable[[], None] | None = None) -> None:
        self.signal_number: int | None = None
        self._on_request = on_request

    def __bool__(self) -> bool:
        """Return whether a signal came."""
        return self.signal_number is not None

    def receive(self, signal_number: int, _frame: FrameType | None) -> None:
        """Record the first signal; raise KeyboardInterrupt at a second SIGINT."""
        if self.signal_number is None:
            self.signal_number = signal_number
            if self._on_request is not None:
                self._on_request()
        elif signal_number == signal.SIGINT:
            raise KeyboardInterrupt


@contextmanager
def stop_request(on_request: Callable[[], None] | None = None) -> Iterator[StopRequest]:
    """Collect signals for the length of the block; `on_request` is called at the first one."""
    request = StopRequest(on_request)
    former = {number: signal.signal(number, request.receive) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
