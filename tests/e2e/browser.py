"""A headless Chromium, driven over the DevTools protocol. It can reach nothing but this machine's loopback."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

_ANSWER_TIMEOUT_S = 30.0
_START_TIMEOUT_S = 60.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
    "--window-size=1280,900",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--remote-debugging-port=0",
)

Listener = Callable[[str, dict[str, Any]], None]
"""Takes the name and the parameters of an event of one tab."""


class BrowserFailed(Exception):
    """Chromium is missing, did not start, or refused a command; or the page threw."""


class Tab:
    """One page. Every wait has a deadline, in seconds."""

    def __init__(self, browser: "_Browser", session_id: str) -> None:
        self._browser = browser
        self._session_id = session_id
        self.complaints: list[str] = []
        """Errors and warnings of the console, uncaught exceptions, and everything that the page's policy blocked."""
        self.requested: list[str] = []
        """The address of everything that the page asked for, sockets included."""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol."""
        return await self._browser.call(method, params, self._session_id)

    async def evaluate(self, expression: str, timeout_s: float = _ANSWER_TIMEOUT_S) -> Any:
        """The JSON value of a JavaScript expression, awaited if it is a promise."""
        params = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = await self._browser.call("Runtime.evaluate", params, self._session_id, timeout_s)
        if "exceptionDetails" in answer:
            thrown = answer["exceptionDetails"]
            exception = thrown.get("exception", {})
            raise BrowserFailed(str(exception.get("description") or exception.get("value") or thrown["text"]))
        return answer["result"].get("value")

    async def wait_for(self, expression: str, timeout_s: float = 20.0) -> Any:
        """The value of ``expression`` (True for an element) as soon as it is truthy; looked at before each painted frame."""
        look = f"""new Promise((resolve, reject) => {{
            const started = performance.now();
            let problem = "it was never true";
            const value = () => {{
                try {{ return {expression}; }} catch (thrown) {{ problem = String(thrown); return null; }}
            }};
            const look = () => {{
                const found = value();
                if (found) resolve(found instanceof Node ? true : found);
                else if (performance.now() - started > {timeout_s * 1000}) reject(problem);
                else requestAnimationFrame(look);
            }};
            look();
        }})"""
        try:
            return await self.evaluate(look, timeout_s + _ANSWER_TIMEOUT_S)
        except BrowserFailed as problem:
            raise BrowserFailed(f"{problem} within {timeout_s} s: {expression}") from None

    async def type(self, text: str) -> None:
        """Enter text where the focus is."""
        await self.call("Input.insertText", text=text)

    async def press_enter(self) -> None:
        """Press and release Enter where the focus is."""
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **key)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    async def run_first(self, script: str) -> None:
        """Run ``script`` in every document from now on, before anything of its own."""
        await self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    async def go_to(self, url: str) -> None:
        """Load an address; returns once it answered."""
        answer = await self.call("Page.navigate", url=url)
        if "errorText" in answer:
            raise BrowserFailed(f"{url}: {answer['errorText']}")

    async def change_answers(self, url_pattern: str, change: Callable[[Any], Any]) -> None:
        """Put what ``change`` makes of their JSON in the place of the answers to matching requests."""

        def on_event(method: str, params: dict[str, Any]) -> None:
            if method == "Fetch.requestPaused":
                self._browser.start(self._change(params["requestId"], change))

        self._browser.listen(self._session_id, on_event)
        await self.call("Fetch.enable", patterns=[{"urlPattern": url_pattern, "requestStage": "Response"}])

    async def _change(self, request_id: str, change: Callable[[Any], Any]) -> None:
        answer = await self.call("Fetch.getResponseBody", requestId=request_id)
        body = base64.b64decode(answer["body"]) if answer["base64Encoded"] else answer["body"]
        changed = json.dumps(change(json.loads(body))).encode()
        await self.call(
            "Fetch.fulfillRequest",
            requestId=request_id,
            responseCode=200,
            responseHeaders=[{"name": "content-type", "value": "application/json"}],
            body=base64.b64encode(changed).decode(),
        )

    def observe(self, method: str, params: dict[str, Any]) -> None:
        """Keep what an event tells of requests and complaints."""
        if method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requested.append(params["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
            self.complaints.append(json.dumps(params["args"]))


class _Browser:
    """The connection to one Chromium, shared by its tabs."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._works: set[asyncio.Task[None]] = set()
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listeners: dict[str, list[Listener]] = {}

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)

    def listen(self, session_id: str, listener: Listener) -> None:
        self._listeners.setdefault(session_id, []).append(listener)

    async def call(
        self, method: str, params: dict[str, Any], session_id: str = "", timeout_s: float = _ANSWER_TIMEOUT_S
    ) -> dict[str, Any]:
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        await self._connection.send(json.dumps(message | ({"sessionId": session_id} if session_id else {})))
        try:
            return await asyncio.wait_for(answer, timeout_s)
        finally:
            del self._answers[number]

    async def read(self) -> None:
        with suppress(ConnectionClosed):
            async for text in self._connection:
                self._dispatch(json.loads(text))

    def _dispatch(self, message: dict[str, Any]) -> None:
        answer = self._answers.get(message.get("id", 0))
        if answer is not None and not answer.done():
            if "error" in message:
                answer.set_exception(BrowserFailed(message["error"]["message"]))
            else:
                answer.set_result(message["result"])
        for listener in self._listeners.get(message.get("sessionId", ""), []):
            if "method" in message:
                listener(message["method"], message["params"])

    async def new_tab(self) -> Tab:
        target = await self.call("Target.createTarget", {"url": "about:blank"})
        attached = await self.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        tab = Tab(self, attached["sessionId"])
        self.listen(attached["sessionId"], tab.observe)
        for domain in ("Page", "Runtime", "Network", "Log"):
            await tab.call(f"{domain}.enable")
        return tab


@asynccontextmanager
async def open_tab(profile: Path) -> AsyncIterator[Tab]:
    """An empty tab of a new Chromium, whose profile is kept in the empty folder ``profile``."""
    async with _chromium(profile) as address, connect(address, max_size=None) as connection:
        browser = _Browser(connection)
        async with _in_background(browser.read()):
            yield await browser.new_tab()


@asynccontextmanager
async def _in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _chromium(profile: Path) -> AsyncIterator[str]:
    """The DevTools address of a new Chromium, which is gone afterwards with all its processes."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise BrowserFailed("no Chromium on the PATH: install one (Debian: `apt-get install chromium`)")
    process = await asyncio.create_subprocess_exec(
        program,
        *_FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        address = await asyncio.wait_for(_address(process.stderr), _START_TIMEOUT_S)
        async with _in_background(_drain(process.stderr)):
            yield address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _drain(stderr: asyncio.StreamReader) -> None:
    """Chromium keeps complaining; a full pipe would stop it."""
    while await stderr.read(65_536):
        pass


async def _address(stderr: asyncio.StreamReader) -> str:
    said = []
    async for line in stderr:
        said.append(line.decode(errors="replace").strip())
        if said[-1].startswith("DevTools listening on "):
            return said[-1].removeprefix("DevTools listening on ")
    raise BrowserFailed("Chromium ended at once:\n" + "\n".join(said[-10:]))
