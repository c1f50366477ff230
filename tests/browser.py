"""A real browser for tests: headless Chromium, driven by the DevTools protocol over a pipe."""

import json
import os
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

# The tests alone drive it: without a sandbox, which root cannot have, and without a search for updates.
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic", "--remote-debugging-pipe"),
)


def installed() -> str | None:
    """The program that MAGICODER_CHROMIUM names, else the first Chromium that is found on this machine."""
    if named := os.environ.get("MAGICODER_CHROMIUM"):
        assert shutil.which(named), f"MAGICODER_CHROMIUM={named}: no such program"
        return named
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab, with the events in it."""

    def __init__(self, chromium: subprocess.Popen) -> None:
        self.chromium = chromium
        self.requests: list[str] = []
        self.mistakes: list[str] = []
        self.loaded = False
        self.sent = 0
        self.session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to the browser; return its answer, and record events that arrive meanwhile."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": parameters, **self.session}
        self.chromium.stdin.write(json.dumps(message).encode() + b"\0")
        self.chromium.stdin.flush()
        while (told := self.receive()).get("id") != self.sent:
            self.note(told.get("method"), told.get("params"))
        assert "error" not in told, f"{method}: {told['error']}"
        return told["result"]

    def receive(self) -> dict[str, Any]:
        """The next message."""
        message = bytearray()
        while (byte := self.chromium.stdout.read(1)) != b"\0":
            assert byte, "Chromium ended"
            message += byte
        return json.loads(message)

    def note(self, method: str | None, parameters: Any) -> None:
        """Keep what tests ask for later."""
        match method:
            case "Page.loadEventFired":
                self.loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.mistakes.append(parameters["exceptionDetails"]["exception"]["description"])
            case "Log.entryAdded":
                self.mistakes.append(parameters["entry"]["text"])

    def open(self, url: str) -> None:
        """Load a page to its end, anew even if only the fragment differs."""
        self.go("about:blank")
        self.requests.clear()
        self.go(url)

    def go(self, url: str) -> None:
        """Follow a link to another page, to its end."""
        self.loaded = False
        self.call("Page.navigate", url=url)
        while not self.loaded:
            told = self.receive()
            self.note(told.get("method"), told.get("params"))

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Be a window of this size, on a machine that is set to light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key that gives no text."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def write(self, text: str) -> None:
        """Give a text to what has the focus, as a keyboard would."""
        self.call("Input.insertText", text=text)

    def picture(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        path.write_bytes(b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def browsing(chromium: str, profile: Path) -> Iterator[Page]:
    """A browser without a past, which ends with the block."""
    # The protocol wants descriptors 3 and 4; a shell makes them of the two that a child has anyway.
    shell = ("sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null')
    line = [*shell, chromium, *OPTIONS, f"--user-data-dir={profile}"]
    environment = {**os.environ, "HOME": str(profile)}
    with (
        open(profile / "chromium.log", "wb") as log,
        subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment) as process,
    ):
        try:
            yield Page(process)
        finally:
            process.kill()
