"""A real browser for tests: headless Chromium, driven over the WebDriver protocol (https://www.w3.org/TR/webdriver2/)."""

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """One window. Use it in a `with` block, so that its processes end.

    Raises:
        RuntimeError: there is no Chromium or no ChromeDriver. `./convoy test` installs both where it may.
    """

    def __init__(self, width: int = 1500, height: int = 1400) -> None:
        chromium = next(filter(None, map(shutil.which, _CHROMIUM)), None)
        driver = shutil.which("chromedriver")
        if chromium is None or driver is None:
            raise RuntimeError("this test needs Chromium and ChromeDriver (apt-get install chromium chromium-driver)")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._driver = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._base = f"http://127.0.0.1:{port}"
        try:
            self._wait_for_driver()
            arguments = [*_OPTIONS, f"--window-size={width},{height}", f"--user-data-dir={self._profile.name}"]
            options = {"goog:chromeOptions": {"binary": chromium, "args": arguments}}
            session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": options}})
            self._base += f"/session/{session['sessionId']}"
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("DELETE", "", None)
        finally:
            self._end()

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str) -> object:
        """Run JavaScript and return its result."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def text(self) -> str:
        """The visible text of the page."""
        return str(self.run("return document.body.innerText"))

    def wait_for(self, *texts: str, seconds: float = 40) -> str:
        """Wait until the page shows all texts, and return its visible text."""
        deadline = time.monotonic() + seconds
        while True:
            shown = self.text()
            missing = [text for text in texts if text not in shown]
            if not missing:
                return shown
            assert time.monotonic() < deadline, f"the page does not show {missing}, but:\n{shown}"
            time.sleep(0.3)

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot", None)))

    def _wait_for_driver(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                self._ask("GET", "/status", None)
                return
            except urllib.error.URLError:
                assert time.monotonic() < deadline, "ChromeDriver does not answer"
                time.sleep(0.1)

    def _ask(self, method: str, path: str, body: dict | None):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()[:500]}") from error

    def _end(self) -> None:
        self._driver.terminate()
        self._driver.wait(20)
        self._profile.cleanup()
