"""The page in a real browser, against a running ApexStream with the plugin ``corpus``."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.e2e.browser import Tab, open_tab

pytestmark = pytest.mark.page

MOMENTS_MIN = 8  # distinct numbers of rows seen while the stream was running
ROWS_MAX = 500
FILES = 40
FILES_OF_A_LONG_TASK = 400

_WATCH = """
    window.deep = (...path) =>
        path.reduce((node, selector) => (node?.shadowRoot ?? node)?.querySelector(selector), document);
    window.stream = () => deep("apex-app", "apex-stream");
    window.rows = () => [...(deep("apex-app", "apex-stream", "apex-rows", "ol")?.children ?? [])];
    window.seqs = () => rows().map((row) => Number(row.dataset.seq));
    window.scroller = () => deep("apex-app", "apex-stream", "apex-rows", ".scroller");
    window.fromBottom = () => scroller().scrollHeight - scroller().scrollTop - scroller().clientHeight;
    window.form = (...path) => deep("apex-app", "apex-action-form", ...path);

    // Every change anywhere in the page: how many rows there are now, and whether the stream's last frame has come.
    window.moments = [];
    const look = () => {
        const now = {at_ms: performance.now(), rows: rows().length, ended: stream()?.ended ?? false};
        const last = moments.at(-1);
        if (now.rows !== last?.rows || now.ended !== last?.ended) moments.push(now);
    };
    const observer = new MutationObserver(look);
    const attachShadow = Element.prototype.attachShadow;
    Element.prototype.attachShadow = function (options) {
        const root = attachShadow.call(this, options);
        observer.observe(root, {childList: true, subtree: true, attributes: true});
        return root;
    };

    // What goes over the page's sockets, and a way to cut them.
    window.sockets = [];
    window.heard = [];
    window.said = [];
    const Real = WebSocket;
    window.WebSocket = class extends Real {
        constructor(...address) {
            super(...address);
            sockets.push(this);
            this.addEventListener("message", ({data}) => heard.push(...[JSON.parse(data)].flat()));
        }
        send(text) {
            said.push(JSON.parse(text));
            super.send(text);
        }
    };
"""


_FILE = re.compile(r'"kind": "file", "path": "(module_\d+\.py)"')


@pytest.fixture
async def tab(tmp_path: Path, apex_url: str) -> AsyncIterator[Tab]:
    """A tab that watches itself; at the end it must have complained of nothing and talked to nobody but the gateway."""
    async with open_tab(tmp_path / "profile") as opened:
        await opened.run_first(_WATCH)
        yield opened
        assert opened.complaints == []
        assert {urlsplit(url).netloc for url in opened.requested} == {urlsplit(apex_url).netloc}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder of Python files, each large enough that analysing it takes some milliseconds."""
    return _write_sources(tmp_path / "sources", FILES)


def _write_sources(folder: Path, count: int) -> Path:
    folder.mkdir()
    content = "\n".join(f"def f{n}(a, b):\n    return {{'sum': a + b, 'n': {n}}}\n" for n in range(400))
    for number in range(count):
        (folder / f"module_{number:03}.py").write_text(content)
    return folder


async def _open_form(tab: Tab, apex_url: str) -> None:
    await tab.go_to(f"{apex_url}/#/action/corpus/analyze")
    await tab.wait_for("form('textarea[name=path]')")
    await tab.evaluate("form('textarea[name=path]').focus()")


async def _submit(tab: Tab, apex_url: str, path: Path) -> None:
    """Fill the form in and submit it as a person does."""
    await _open_form(tab, apex_url)
    await tab.type(str(path))
    await tab.press_enter()


async def _shown_files(tab: Tab) -> list[str]:
    """Which file each row is about, as the rows stand; the summary at the end is about none."""
    texts = await tab.evaluate("rows().map((row) => row.querySelector('.face').textContent)")
    return [match[1] for text in texts if (match := _FILE.search(text))]


def _names(count: int) -> list[str]:
    return [f"module_{number:03}.py" for number in range(count)]


async def test_chunks_of_a_submitted_task_appear_one_after_the_other(tab: Tab, apex_url: str, sources: Path) -> None:
    await _submit(tab, apex_url, sources)
    await tab.wait_for(f"stream()?.ended && rows().length >= {FILES}", timeout_s=60)

    moments: list[dict[str, Any]] = await tab.evaluate("moments")
    while_running = [moment for moment in moments if moment["rows"] > 0 and not moment["ended"]]
    counts = [moment["rows"] for moment in while_running]
    assert len(set(counts)) >= MOMENTS_MIN, f"rows were seen at {moments}"
    assert counts == sorted(counts)
    assert counts[0] <= FILES // 2, "half of the rows were there at once"
    assert await tab.evaluate("stream().stage") == "completed"
    assert await _shown_files(tab) == _names(FILES)


async def test_rows_are_exactly_the_chunks_that_came_in_their_order(tab: Tab, apex_url: str, sources: Path) -> None:
    await _submit(tab, apex_url, sources)
    await tab.wait_for(f"stream()?.ended && rows().length >= {FILES}", timeout_s=60)

    heard: list[dict[str, Any]] = await tab.evaluate("heard")
    frames = [frame for frame in heard if frame["type"].startswith("stream_")]
    updates = [frame["seq"] for frame in frames if frame["type"] == "stream_update"]
    assert [frame["seq"] for frame in frames] == list(range(len(frames)))
    assert await tab.evaluate("seqs()") == updates


async def test_the_newest_rows_are_kept_and_all_are_counted(tab: Tab, apex_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    for number in range(ROWS_MAX + 100):
        (folder / f"module_{number:03}.py").write_text("")

    await _submit(tab, apex_url, folder)
    await tab.wait_for("stream()?.ended && deep('apex-app', 'apex-stream', 'apex-rows').queue.waiting === 0", 60)

    assert await tab.evaluate("Math.max(...moments.map((moment) => moment.rows))") == ROWS_MAX
    assert f"{ROWS_MAX + 101} chunks" in await tab.evaluate("deep('apex-app', 'apex-stream', '.bar').textContent")
    assert (await _shown_files(tab))[-1] == f"module_{ROWS_MAX + 99:03}.py"
    assert await tab.wait_for("fromBottom() < 2")


async def test_rows_follow_the_newest_except_for_a_reader_who_scrolled_up(
    tab: Tab, apex_url: str, tmp_path: Path
) -> None:
    await _submit(tab, apex_url, _write_sources(tmp_path / "many", FILES_OF_A_LONG_TASK))
    await tab.wait_for("rows().length >= 60 && fromBottom() < 2")

    await tab.evaluate("scroller().scrollTop = 100")
    await tab.wait_for("rows().length >= 90")
    assert await tab.evaluate("scroller().scrollTop") == 100

    await tab.evaluate("scroller().scrollTop = scroller().scrollHeight")
    await tab.wait_for("rows().length >= 120 && fromBottom() < 2")
    await tab.evaluate("deep('apex-app', 'apex-stream', '.do button').click()")
    await tab.wait_for("stream()?.ended")


async def test_a_link_to_a_stream_shows_all_of_it_again(tab: Tab, apex_url: str, sources: Path) -> None:
    await _submit(tab, apex_url, sources)
    await tab.wait_for("stream()?.ended", timeout_s=60)
    link = await tab.evaluate("location.href")

    await tab.go_to("about:blank")
    await tab.go_to(link)
    await tab.wait_for(f"stream()?.ended && rows().length >= {FILES}")

    assert await _shown_files(tab) == _names(FILES)


async def test_a_lost_connection_resumes_where_it_stood_and_repeats_nothing(
    tab: Tab, apex_url: str, sources: Path
) -> None:
    await _submit(tab, apex_url, sources)
    await tab.wait_for("rows().length >= 5")

    await tab.evaluate("sockets.at(-1).close()")
    await tab.wait_for(f"stream()?.ended && rows().length >= {FILES}", timeout_s=60)

    subscribed = [said for said in await tab.evaluate("said") if said["type"] == "subscribe"]
    seqs = await tab.evaluate("seqs()")
    assert ["cursor" in said for said in subscribed] == [False, True]
    assert len(set(seqs)) == len(seqs)
    assert await _shown_files(tab) == _names(FILES)


async def test_cancelling_ends_the_stream_with_a_receipt(tab: Tab, apex_url: str, tmp_path: Path) -> None:
    await _submit(tab, apex_url, _write_sources(tmp_path / "many", FILES_OF_A_LONG_TASK))
    await tab.wait_for("rows().length >= 3")

    await tab.evaluate("deep('apex-app', 'apex-stream', '.do button').click()")
    await tab.wait_for("stream()?.ended", timeout_s=60)

    assert await tab.evaluate("stream().stage") == "cancelled"
    assert await tab.evaluate("seqs().length") < FILES_OF_A_LONG_TASK
    assert "Stopped at seq" in await tab.evaluate("deep('apex-app', 'apex-stream', '.note').textContent")


async def test_a_parameter_that_the_gateway_refuses_is_explained_at_its_field(
    tab: Tab, apex_url: str, sources: Path
) -> None:
    await _open_form(tab, apex_url)
    await tab.type(str(sources))
    await tab.evaluate("form('[name=limit]').select()")
    await tab.type("-1")
    await tab.press_enter()

    assert "-1" in await tab.wait_for("form('[data-name=limit] .problem')?.textContent")
    assert await tab.evaluate("form('[name=limit]').getAttribute('aria-invalid')") == "true"
    assert await tab.evaluate("deep('apex-app', 'apex-action-form').shadowRoot.activeElement.name") == "limit"
    tab.complaints = [each for each in tab.complaints if "422" not in each]  # what this test provoked


async def test_a_required_parameter_is_asked_for_before_anything_is_sent(tab: Tab, apex_url: str) -> None:
    await _open_form(tab, apex_url)
    await tab.press_enter()

    assert "required" in await tab.wait_for("form('[data-name=path] .problem')?.textContent")


async def test_names_and_summaries_are_text_whatever_they_contain(tab: Tab, apex_url: str) -> None:
    markup = "<img src=x onerror=\"document.title='run'\">"

    def hostile(catalogue: Any) -> Any:
        properties = {markup: {"type": "string", "description": markup}}
        action = {"plugin": markup, "action": markup, "summary": markup, "params_schema": {"properties": properties}}
        return catalogue | {"actions": [action], "broken_plugins": [markup]}

    await tab.change_answers("*/actions", hostile)
    await tab.go_to(apex_url)
    await tab.wait_for("deep('apex-app', 'apex-actions', 'a')")
    await tab.evaluate("location.hash = deep('apex-app', 'apex-actions', 'a').getAttribute('href')")

    assert markup in await tab.wait_for("form('label')?.textContent")
    assert await tab.evaluate("form('img') ?? deep('apex-app', 'apex-actions', 'img') ?? null") is None


async def test_without_a_runner_the_page_says_how_to_start_one(tab: Tab, apex_url: str) -> None:
    await tab.change_answers("*/actions", lambda _: {"actions": [], "broken_plugins": [], "runners": 0})
    await tab.go_to(apex_url)

    assert "apexstream up" in await tab.wait_for(
        "deep('apex-app', '.message p')?.textContent.match(/apexstream.*/)?.[0]"
    )


async def test_the_page_is_served_under_a_policy_that_allows_nothing_from_elsewhere(tab: Tab, apex_url: str) -> None:
    await tab.go_to(apex_url)
    await tab.wait_for("deep('apex-app', 'apex-actions')")

    policy = await tab.evaluate("fetch('./').then((answer) => answer.headers.get('content-security-policy'))")
    assert "default-src 'self'" in policy
    assert "unsafe" not in json.dumps(policy)
