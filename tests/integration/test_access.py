"""A gateway with keys, from outside: who comes in, what they see, and what becomes of everything else.

Names with ``bNN`` are rows of the matrix of bad input.
"""

import asyncio
import contextlib
import http.server
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import msgspec
import pytest
import pytest_asyncio
import websockets
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute
from tests.integration.conftest import Apex, running
from tests.support.forgeries import FORGERIES, RSA_KID
from tests.support.rawsocket import frame, raw_socket
from tests.support.tokens import ALL, Issuer, bearer, rsa_jwk, rsa_key
from tests.support.web import drive

import apexstream.gateway.build
from apexstream.gateway.access import passes, patience
from apexstream.gateway.access.issue import public_jwk
from apexstream.runtime.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

ISSUER = Issuer()
RSA = rsa_key()
PAGE = "https://page.example"
PUBLIC = {"/livez", "/readyz", "/openapi.json"}
ANY_TOKEN = {"/actions", "/tickets", "/mcp"}  # for whoever has a valid token, whatever its scopes
CONNECTIONS_MAX = 8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Apex, Starlette]]:
    """A gateway that wants tokens, and its application."""
    folder = tmp_path_factory.mktemp("auth")
    (folder / "jwks.json").write_text(json.dumps({"keys": [public_jwk(ISSUER.key), rsa_jwk(RSA, RSA_KID)]}))
    settings = Settings(
        bootstrap_servers=kafka,
        topic_prefix=f"m{secrets.token_hex(4)}.",
        port=0,
        home=folder,
        auth_keys=str(folder / "jwks.json"),
        origins=PAGE,
        user_connections_max=CONNECTIONS_MAX,
        seal_after_s=0.2,
    )
    apps: list[Starlette] = []
    make_app = apexstream.gateway.build.make_app
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apexstream.gateway.build, "make_app", lambda *parts: apps.append(make_app(*parts)) or apps[0])
        async with running(settings, bearer(ISSUER.token(*ALL, life_s=3_000))) as started:
            yield started, apps[0]


@pytest.fixture
def apex(keyed: tuple[Apex, Starlette]) -> Apex:
    return keyed[0]


def acts(apex: Apex, *scopes: str, subject: str = "alice", tenant: str = "acme", **headers: str) -> httpx.AsyncClient:
    token = ISSUER.token(*scopes, subject=subject, tenant=tenant)
    return httpx.AsyncClient(base_url=apex.url, headers={**bearer(token), **headers}, timeout=30)


def nobody(apex: Apex, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=apex.url, headers=headers, timeout=30)


def connect(apex: Apex, token: str = "", **headers: str) -> websockets.connect:
    address = f"ws{apex.url.removeprefix('http')}/stream"
    shown = bearer(token) if token else {}
    return websockets.connect(address, additional_headers={**shown, **headers}, compression=None)


async def says(socket: Any, **message: Any) -> None:
    await socket.send(json.dumps(message))


async def hears(socket: Any, *kinds: str) -> dict[str, Any]:
    """The next message, of one of these types if any are given."""
    async with asyncio.timeout(20):
        while True:
            message: dict[str, Any] = msgspec.json.decode(await socket.recv())
            if not kinds or message["type"] in kinds:
                return message


async def closed(socket: Any) -> tuple[int, str]:
    """With what the server closed, once everything before was read."""
    async with asyncio.timeout(20):
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await socket.recv()
    return socket.close_code, socket.close_reason


# Every route.


def routes(app: Starlette) -> Iterator[Route | WebSocketRoute | Mount]:
    for route in app.routes:
        if not (isinstance(route, Mount) and route.path == ""):  # the page
            yield route


async def test_every_route_refuses_whoever_shows_no_token_and_whoever_may_do_nothing(keyed) -> None:
    apex, app = keyed
    asked = 0
    async with nobody(apex) as stranger, acts(apex, subject="idler") as idler:
        for route in routes(app):
            path = route.path.replace("{path:path}", "x")
            for name in getattr(route, "param_convertors", {}):
                path = path.replace("{" + name + "}", "x1").replace("{" + name + ":path}", "x1")
            if isinstance(route, WebSocketRoute):
                async with connect(apex) as socket:
                    await says(socket, type="subscribe", stream_id="x1")
                    assert (await closed(socket))[0] == 4401, path
                continue
            if route.methods is None:  # what answers the methods that a path has not
                assert (await stranger.request("TRACE", path)).status_code == (405 if path in PUBLIC else 401), path
                refused = await idler.request("TRACE", path)
                assert (refused.status_code, bool(refused.headers["allow"])) == (405, True), path
                continue
            for method in route.methods:
                answer = await stranger.request(method, path)
                if path in PUBLIC:
                    assert answer.status_code == 200, path
                    continue
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
                if path not in ANY_TOKEN:
                    assert (await idler.request(method, path)).status_code == 403, (method, path)
                asked += 1
    assert asked > 15


async def test_a_path_that_no_route_has_tells_a_stranger_nothing(apex: Apex) -> None:
    async with nobody(apex) as stranger:
        for path in ("/nothing", "/tasks/", "/tasks/x1/why/not", "/%2e%2e/etc/passwd", "/Tasks", "/livez/"):
            assert (await stranger.get(path)).status_code == 401, path


async def test_the_document_of_the_routes_is_public_and_knows_the_handlers(keyed) -> None:
    apex, app = keyed
    async with nobody(apex) as stranger:
        document = (await stranger.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    plain = {route.path for route in app.routes if isinstance(route, Route) and route.path.startswith("/tasks")}
    assert {path for path in plain if path in document["paths"]} >= {"/tasks", "/tasks/{task_id}"}
    assert document["paths"]["/livez"]["get"]["security"] == []


# Tokens.


@pytest.mark.parametrize("name", FORGERIES)
async def test_b32_a_forgery_opens_neither_a_request_nor_a_socket(apex: Apex, name: str) -> None:
    make, reason = FORGERIES[name]
    token = make(ISSUER, RSA)
    if token.isascii() and len(token) < 8_000:
        async with nobody(apex, **bearer(token)) as forger:
            answer = await forger.get("/tasks")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")
        assert answer.json()["error"]["message"] == f"the token is refused: {reason}"
    if len(token) < 60_000:
        async with connect(apex) as socket:
            await says(socket, type="authenticate", token=token)
            assert (await hears(socket))["error"]["code"] == "unauthenticated"
            code, why = await closed(socket)
            assert (code, why) == (4401, f"the token is refused: {reason}")


async def test_b32_a_megabyte_is_refused_before_it_is_looked_at(apex: Apex) -> None:
    token = FORGERIES["1 MB"][0](ISSUER, RSA)
    async with connect(apex) as socket:
        await says(socket, type="authenticate", token=token)
        assert (await closed(socket))[0] == 1009
    with pytest.raises(httpx.HTTPError):
        async with nobody(apex, **bearer(token)) as forger:
            (await forger.get("/tasks")).raise_for_status()


async def test_b38_an_address_in_a_token_is_never_asked(apex: Apex) -> None:
    asked: list[str] = []

    class Trap(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trap) as trap:
        threading.Thread(target=trap.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{trap.server_port}/keys"
        for header in ("jku", "x5u"):
            token = jwt.encode(ISSUER.claims(), RSA, algorithm="RS256", headers={"kid": "new", header: address})
            async with nobody(apex, **bearer(token)) as forger:
                assert (await forger.get("/tasks")).status_code == 401
        trap.shutdown()
    assert asked == []


async def test_keys_are_exchanged_while_the_gateway_runs(apex: Apex, tmp_path: Path) -> None:
    path = Path(apex.settings.auth_keys)
    newer = Issuer()
    before = path.read_text()
    keys = json.loads(before)["keys"]
    try:
        path.write_text(json.dumps({"keys": [public_jwk(newer.key), *keys]}))
        async with asyncio.timeout(20), nobody(apex, **bearer(newer.token("read"))) as http:
            while (await http.get("/tasks")).status_code != 200:
                await asyncio.sleep(0.2)
    finally:
        path.write_text(before)


# Origins and host names.


async def test_b30_a_socket_from_another_page_is_refused_before_it_opens(apex: Apex) -> None:
    token = ISSUER.token("read")
    for origin in ("https://evil.example", "null", f"{PAGE}.evil.example", f"{PAGE}:444"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with connect(apex, token, origin=origin):
                pass
        assert refused.value.response.status_code == 403
    for origin in (PAGE, apex.url):
        async with connect(apex, token, origin=origin) as socket:
            await says(socket, type="ping")
            assert (await hears(socket))["type"] == "pong"


async def test_only_listed_pages_read_answers(apex: Apex) -> None:
    async with nobody(apex) as http:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        allowed = await http.options("/tasks", headers={"origin": PAGE, **asked})
        refused = await http.options("/tasks", headers={"origin": "https://evil.example", **asked})
        seen = await http.get("/tasks", headers={"origin": PAGE})
        unseen = await http.get("/livez", headers={"origin": "https://evil.example"})
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (400, False)
    assert (seen.status_code, seen.headers["access-control-allow-origin"]) == (401, PAGE)
    assert unseen.status_code == 403


# Sockets.


async def test_b31_a_socket_without_a_token_is_closed(apex: Apex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "STALE_S", 0.2)
    async with connect(apex) as socket:
        assert await closed(socket) == (4401, "no token within 0.2 s")


async def test_a_socket_says_who_it_is_with_its_first_message(apex: Apex) -> None:
    async with connect(apex) as socket:
        await says(socket, type="authenticate", token=ISSUER.token("read"), id=1)
        told = await hears(socket)
        assert (told["type"], told["id"], told["subject"], told["tenant"]) == ("authenticated", 1, "alice", "acme")
        assert told["expires"] > time.time()
        await says(socket, type="ping")
        assert (await hears(socket))["type"] == "pong"


async def test_a_ticket_opens_one_socket_once_from_its_origin(apex: Apex) -> None:
    async with acts(apex, "read", origin=PAGE) as http:
        answer = await http.post("/tickets")
        ticket = answer.json()["ticket"]
        elsewhere = (await http.post("/tickets")).json()["ticket"]
    assert (answer.status_code, answer.json()["expires_in_s"]) == (201, 30)
    async with connect(apex, origin=PAGE) as socket:
        await says(socket, type="authenticate", ticket=ticket)
        assert (await hears(socket))["subject"] == "alice"
    async with connect(apex, origin=PAGE) as socket:
        await says(socket, type="authenticate", ticket=ticket)
        assert await closed(socket) == (4401, "the token is refused: used")
    async with connect(apex) as socket:
        await says(socket, type="authenticate", ticket=elsewhere)
        assert await closed(socket) == (4401, "the token is refused: audience")


async def test_a_ticket_reads_once_and_makes_no_other_ticket(apex: Apex) -> None:
    async with acts(apex, "read") as http, nobody(apex) as bare:
        first, second = [(await http.post("/tickets")).json()["ticket"] for _ in range(2)]
        assert (await bare.get("/tasks", params={"ticket": first})).status_code == 200
        assert (await bare.get("/tasks", params={"ticket": first})).status_code == 401
        assert (await bare.post("/tickets", params={"ticket": second})).status_code == 401


async def test_a_ticket_is_good_once_among_all_gateways(apex: Apex) -> None:
    other: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    serving = asyncio.create_task(apexstream.gateway.build.serve(apex.settings, ready=other.set_result, stop=stop))
    async with asyncio.timeout(60), acts(apex, "read") as http, nobody(apex) as here:
        async with httpx.AsyncClient(base_url=await other) as there:
            ticket = (await http.post("/tickets")).json()["ticket"]
            shown = [each.get("/tasks", params={"ticket": ticket}) for each in (here, there) * 3]
            answers = [answer.status_code for answer in await asyncio.gather(*shown)]
        stop.set()
        await serving
    assert sorted(answers) == [200, 401, 401, 401, 401, 401]


async def test_b33_a_socket_is_warned_renewed_and_closed_in_the_end(apex: Apex, monkeypatch) -> None:
    monkeypatch.setattr(passes, "GRACE_S", 0.3)
    monkeypatch.setattr(passes, "EXPIRING_S", 1.5)
    async with connect(apex, ISSUER.token("read", life_s=2)) as socket:
        assert (await hears(socket))["type"] == "expiring"
        await says(socket, type="authenticate", token=ISSUER.token("read", life_s=4))
        assert (await hears(socket))["type"] == "authenticated"
        await asyncio.sleep(1.5)
        await says(socket, type="ping")
        await hears(socket, "pong")
        code, reason = await closed(socket)
    assert (code, reason) == (4401, "the token has expired: authenticate again")


async def test_nobody_takes_over_anothers_socket(apex: Apex) -> None:
    async with connect(apex, ISSUER.token("read")) as socket:
        await says(socket, type="authenticate", token=ISSUER.token("read", subject="mallory"))
        assert (await hears(socket))["error"]["code"] == "forbidden"
        await says(socket, type="ping")
        assert (await hears(socket))["type"] == "pong"


async def test_a_renewed_token_that_allows_less_ends_what_it_does_not_allow(apex: Apex) -> None:
    stream_id = await apex.submit("count", n=100_000, interval_s=0.01)
    async with connect(apex, ISSUER.token("read")) as socket:
        await says(socket, type="subscribe", stream_id=stream_id)
        await hears(socket, "stream_update")
        await says(socket, type="authenticate", token=ISSUER.token("read:other-*"))
        told = await hears(socket, "error")
        assert (told["error"]["code"], told["stream_id"]) == ("forbidden", stream_id)
        await says(socket, type="ping")
        while (message := await hears(socket))["type"] != "pong":
            assert message["type"] != "stream_update"
    await apex.http.delete(f"/tasks/{stream_id}")


# Scopes and tenants.


async def test_scopes_are_kept_by_verb_and_name(apex: Apex) -> None:
    body = {"plugin": "probe", "action": "count", "params": {"n": 1}}
    named = f"reports-{secrets.token_hex(4)}"
    async with acts(apex, "submit:probe.cou*", "read:reports-*") as http:
        assert (await http.post("/tasks", json={**body, "task_id": named})).status_code == 202
        assert (await http.post("/tasks", json={**body, "action": "fail"})).status_code == 403
        other = (await http.post("/tasks", json=body)).json()["task_id"]
        assert (await http.get(f"/tasks/{named}")).status_code == 200
        refused = await http.get(f"/tasks/{other}")
        assert (refused.status_code, refused.json()["error"]["hint"]) == (
            403,
            f"The token needs the scope read:{other}",
        )
        assert {task["task_id"][:8] for task in (await http.get("/tasks")).json()["tasks"]} == {"reports-"}
        assert (await http.delete(f"/tasks/{named}")).status_code == 403
        assert (await http.delete(f"/streams/{named}")).status_code == 403
        assert (await http.get("/dead-letters")).status_code == 403
        assert (await http.get("/queue")).status_code == 403
        assert (await http.get(f"/streams/{other}/events")).status_code == 403
        chat = {"id": "c", "messages": []}
        assert (await http.post("/chat/probe/converse", json=chat)).status_code == 403
        assert (await http.post("/ag-ui/probe/count", json={"threadId": "t", "runId": "r"})).status_code == 403
        assert (await http.get(f"/streams/{other}/ui-messages")).status_code == 403
        assert "stream_complete" in (await http.get(f"/streams/{named}/events")).text
    async with connect(apex, ISSUER.token("read:reports-*")) as socket:
        await says(socket, type="subscribe", stream_id=other)
        assert (await hears(socket))["error"]["code"] == "forbidden"
        await says(socket, type="cancel", task_id=named)
        assert (await hears(socket))["error"]["code"] == "forbidden"
        await says(socket, type="subscribe", stream_id=named)
        assert (await hears(socket))["type"] == "stream_update"


async def test_the_typescript_client_shows_a_token_or_a_ticket_for_each_socket(apex: Apex) -> None:
    shows = {"APEX_TOKEN": ISSUER.token("submit", "read")}
    for ticket in ("", "yes"):
        task, *events = await drive("submit", apex.url, "probe", "count", '{"n": 3}', **shows, APEX_TICKET=ticket)
        assert [event["kind"] for event in events] == ["update"] * 3 + ["complete"]
    assert await drive("follow", apex.url, task["streamId"], APEX_TOKEN="") == [{"error": "unauthenticated"}]
    other = {"APEX_TOKEN": ISSUER.token("read:other-*")}
    assert await drive("follow", apex.url, task["streamId"], **other) == [{"error": "forbidden"}]


async def test_b34_to_another_tenant_a_stream_does_not_exist(apex: Apex) -> None:
    stream_id = await apex.submit("count", n=3)
    await apex.follow(stream_id)
    unknown = f"{stream_id[:-1]}{'0' if stream_id[-1] != '0' else '1'}"
    async with acts(apex, *ALL, tenant="evil") as http:
        for method, path in (
            ("GET", "/tasks/{}"),
            ("GET", "/tasks/{}/why"),
            ("DELETE", "/tasks/{}"),
            ("POST", "/tasks/{}/pause"),
            ("POST", "/tasks/{}/resume"),
            ("DELETE", "/streams/{}"),
            ("POST", "/dead-letters/{}/retry"),
        ):
            foreign, none = [await http.request(method, path.format(each)) for each in (stream_id, unknown)]
            assert (foreign.status_code, none.status_code) == (404, 404), path
            assert foreign.text.replace(stream_id, unknown) == none.text
        assert (await http.get("/tasks")).json() == {"tasks": []}
        taken = {"plugin": "probe", "action": "count", "params": {"n": 1}, "task_id": stream_id}
        assert (await http.post("/tasks", json=taken)).status_code == 409
    async with connect(apex, ISSUER.token(*ALL, tenant="evil")) as socket:
        answers = []
        for each in (stream_id, unknown):
            await says(socket, type="subscribe", stream_id=each, id="a")
            answers.append((await hears(socket)) | {"stream_id": ""})
            await says(socket, type="watch", task_id=each, id="b")
            told = await hears(socket)
            answers.append(json.loads(json.dumps(told).replace(each, "")))
        assert answers[:2] == answers[2:]
        assert answers[0]["type"] == "waiting"


async def test_b34_a_tenants_streams_at_ds_are_its_own(apex: Apex) -> None:
    task = await apex.submit("count", n=3)
    path = f"/ds/{secrets.token_hex(4)}"
    json_type = {"content-type": "application/json"}
    async with acts(apex, *ALL) as mine, acts(apex, *ALL, tenant="evil") as theirs:
        await mine.put(path, content=b"[1]", headers=json_type)
        await mine.post(path, content=b"[2]", headers=json_type)
        assert (await mine.get(path)).json() == [1, 2]
        assert (await mine.get(f"/ds/streams/{task}", params={"live": "long-poll", "offset": "-1"})).status_code == 200
        stream_id = (await mine.head(path)).headers["stream-id"]
        for foreign in (path, f"/ds/streams/{task}", f"/ds/streams/{stream_id}"):
            for method in ("GET", "HEAD"):
                assert (await theirs.request(method, foreign)).status_code == 404, foreign
        assert (await theirs.post(path, content=b"[3]", headers=json_type)).status_code == 404
        assert (await theirs.delete(path)).status_code == 404
        forked = {"stream-forked-from": path} | json_type
        assert (await theirs.put(f"{path}-fork", headers=forked)).status_code == 404
        assert (await mine.get(path)).json() == [1, 2]


@pytest.mark.parametrize("name", ["../x", "", "x" * 1_000, "a\x00b", "a\nb", "A", "é", "a/b"])
async def test_b34_what_is_no_id_is_refused_wherever_it_comes(apex: Apex, name: str) -> None:
    async with connect(apex, ISSUER.token(*ALL)) as socket:
        await says(socket, type="subscribe", stream_id=name)
        assert (await hears(socket))["error"]["code"] == "bad_request"


async def test_a_stranger_who_waited_first_gets_nothing_when_the_stream_begins(apex: Apex) -> None:
    stream_id = f"early-{secrets.token_hex(4)}"
    async with (
        connect(apex, ISSUER.token("read", tenant="evil")) as evil,
        connect(apex, ISSUER.token("read")) as own,
    ):
        for socket in (evil, own):
            await says(socket, type="subscribe", stream_id=stream_id, id=1)
            assert (await hears(socket))["type"] == "waiting"
        body = {"plugin": "probe", "action": "count", "params": {"n": 5}, "task_id": stream_id}
        assert (await apex.http.post("/tasks", json=body)).status_code == 202
        while (await hears(own))["type"] != "stream_complete":
            pass
        await says(evil, type="ping")
        assert (await hears(evil))["type"] == "pong"
        assert (await apex.http.delete(f"/streams/{stream_id}")).status_code == 202
        await says(own, type="subscribe", stream_id=stream_id, id=2)
        async with asyncio.timeout(30):
            while (await hears(own))["type"] != "error":
                await says(own, type="subscribe", stream_id=stream_id)
        await says(evil, type="ping")
        assert (await hears(evil))["type"] == "pong"


async def test_whose_a_stream_is_outlives_its_task_and_its_content(apex: Apex, kafka: str) -> None:
    """Another gateway, from which the record of the task is hidden, knows it from the stream's sealed state."""
    stream_id = await apex.submit("count", n=3)
    await apex.follow(stream_id)
    erased = await apex.submit("count", n=3)
    await apex.follow(erased)
    assert (await apex.http.delete(f"/streams/{erased}")).status_code == 202
    settings = apex.settings.model_copy(update={"port": 0, "instance": "amnesiac"})
    stop = asyncio.Event()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("apexstream.gateway.registry.Registry.on_submissions", lambda *_: None)
        serving = asyncio.create_task(apexstream.gateway.build.serve(settings, ready=ready.set_result, stop=stop))
        amnesiac = Apex(await asyncio.wait_for(ready, 30), settings, apex.http)
        try:
            async with connect(amnesiac, ISSUER.token("read", tenant="evil")) as evil:
                for each in (stream_id, erased):
                    await says(evil, type="subscribe", stream_id=each, id=1)
                    assert (await hears(evil))["type"] == "waiting"
            async with connect(amnesiac, ISSUER.token("read")) as own:
                await says(own, type="subscribe", stream_id=stream_id)
                async with asyncio.timeout(60):
                    while (await hears(own))["type"] != "stream_complete":
                        pass
                    message = {"type": "stream_complete"}
                    while (
                        message["type"] == "stream_complete"
                    ):  # until the archiver has erased it, of which no event tells
                        await asyncio.sleep(0.2)
                        await says(own, type="subscribe", stream_id=erased)
                        message = await hears(own, "error", "stream_complete")
                assert message["error"]["code"] == "erased"
            async with acts(amnesiac, *ALL, tenant="evil") as http:
                taken = {"plugin": "probe", "action": "count", "params": {"n": 1}, "task_id": stream_id}
                assert (await http.post("/tasks", json=taken)).status_code in {409, 503}
        finally:
            stop.set()
            await serving


# Limits.


async def test_b36_a_socket_that_speaks_too_fast_is_closed(apex: Apex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "MESSAGES_BURST", 20.0)
    async with connect(apex, ISSUER.token("read")) as socket:
        for _ in range(200):
            await says(socket, type="ping")
        assert await closed(socket) == (4429, "more than 50 messages a second")


async def test_b36_a_user_has_so_many_connections_and_another_user_still_comes_in(apex: Apex) -> None:
    token = ISSUER.token("read", subject="greedy")
    sockets = [await connect(apex, token) for _ in range(CONNECTIONS_MAX)]
    try:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(apex, token)
        assert refused.value.response.status_code in {429, 503}
        assert int(refused.value.response.headers["retry-after"]) >= 1
        async with nobody(apex, **bearer(token)) as http:
            answer = await http.get("/tasks")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "limit_reached")
        async with connect(apex) as late:
            await says(late, type="authenticate", token=token)
            assert (await closed(late))[0] == 4429
        async with connect(apex, ISSUER.token("read", subject="modest")) as socket:
            await says(socket, type="ping")
            await hears(socket, "pong")
    finally:
        await asyncio.gather(*(socket.close() for socket in sockets))
    async with asyncio.timeout(10), nobody(apex, **bearer(token)) as http:
        while (await http.get("/tasks")).status_code != 200:
            await asyncio.sleep(0.05)


async def test_b36_submissions_of_one_user_are_limited_and_told_when_to_come_back(apex: Apex, monkeypatch) -> None:
    monkeypatch.setattr("apexstream.gateway.access.limits.Bucket.take", lambda *_: 3.2)
    body = {"plugin": "probe", "action": "count", "params": {"n": 1}}
    async with acts(apex, *ALL) as http:
        answer = await http.post("/tasks", json=body)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "4")


async def test_b36_a_socket_has_so_many_streams_and_keeps_them(apex: Apex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apexstream.gateway.websocket.SUBSCRIPTIONS_MAX", 20)
    async with connect(apex, ISSUER.token("read")) as socket:
        for number in range(21):
            await says(socket, type="subscribe", stream_id=f"never-{number}", id=number)
        answers = [await hears(socket) for _ in range(21)]
        assert [answer["type"] for answer in answers] == ["waiting"] * 20 + ["error"]
        await says(socket, type="unsubscribe", stream_id="never-0", id=30)
        assert (await hears(socket))["type"] == "done"
        await says(socket, type="subscribe", stream_id="never-20", id=31)
        assert (await hears(socket))["type"] == "waiting"


async def test_b38_no_address_in_a_request_is_ever_asked(apex: Apex) -> None:
    asked: list[str] = []

    async def listen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append("somebody")
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server, acts(apex, *ALL) as http:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/latest/meta-data"
        json_type = {"content-type": "application/json"}
        task = {"plugin": "probe", "action": "gated", "params": {"gate": url, "n": 1}}
        pipeline = {"definition": {"inputs": [{"stream": url}]}}
        view = json.dumps({"operators": [{"op": "map", "path": url}]})
        answers = [
            await http.post("/tasks", json=task),
            await http.post("/pipelines", json=pipeline),
            await http.put("/ds/x", headers=json_type | {"stream-forked-from": url}),
            await http.get(f"/ds/{url}"),
            await http.get("/streams/x/view", params={"view": view, "cursor": url}),
            await http.get("/tasks", headers={"referer": url, "x-forwarded-host": url, "forwarded": f"host={url}"}),
            await http.get("/tasks", params={"trace": url}),
        ]
        cancelled = await http.delete(f"/tasks/{answers[0].json()['task_id']}")
    assert [answer.status_code for answer in answers] == [202, 422, 404, 404, 422, 200, 400]
    assert cancelled.status_code in {200, 202}
    assert asked == []


async def test_a_body_over_the_limit_is_refused(apex: Apex) -> None:
    async with acts(apex, *ALL) as http:
        answer = await http.post("/tasks", content=b" " * (512 * 1024 + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_b37_half_a_handshake_is_not_waited_for(apex: Apex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "HEAD_S_MAX", 0.3)
    port = int(apex.url.rpartition(":")[2])
    for start in (b"", b"GET /stream HTTP/1.1\r\nHost: 127", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        async with asyncio.timeout(4):
            with contextlib.suppress(ConnectionResetError):
                while await reader.read(4096):
                    pass
        writer.close()


# Frames that break rules.


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(b"{}", masked=False), 1002),
        (frame(b"", opcode=0x3), 1002),
        (frame(b"{}", rsv1=True), 1002),
        (frame(b"x" * 126, opcode=0x9), 1002),
        (frame((1005).to_bytes(2, "big"), opcode=0x8), 1002),
        (frame(b"{}", opcode=0x0), 1002),
        (frame(b"\xff\xfe"), 1007),
        (frame(b"x" * 200_000), 1009),
        (b"\x81\xff" + (1 << 62).to_bytes(8, "big") + b"\0\0\0\0", 1009),
        (frame(b"x" * 30_000, final=False) + 9 * frame(b"x" * 30_000, opcode=0x0, final=False), 1009),
    ],
    ids=[
        "b24 unmasked", "b24 reserved opcode", "b24 rsv1", "b24 long ping", "b24 close 1005", "b24 stray continuation",
        "b25 no utf-8", "b26 200 KB", "b26 2^62", "b26 endless fragments",
    ],
)  # fmt: skip
async def test_a_socket_that_breaks_the_protocol_is_closed_with_its_code(apex: Apex, sent: bytes, code: int) -> None:
    async with raw_socket(apex.url, bearer(ISSUER.token("read"))) as socket:
        socket.send(sent)
        assert (await socket.closed_with())[0] == code


async def test_b27_compression_is_not_agreed_to(apex: Apex) -> None:
    offered = {"sec-websocket-extensions": "permessage-deflate; client_max_window_bits"}
    async with raw_socket(apex.url, bearer(ISSUER.token("read")) | offered) as socket:
        assert " 101 " in socket.head
        assert "sec-websocket-extensions" not in socket.head


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,
        '{"a":' * 1_000 + "1" + "}" * 1_000,
        '{"type":"subscribe","stream_id":"s","from_seq":' + "9" * 5_000 + "}",
        '{"type":"subscribe","stream_id":"s","from_seq":NaN}',
        '{"type":"subscribe","stream_id":"s","from_seq":1e999}',
        '{"type":"ping"} trailing',
        '{"type":"subscribe","stream_id":"s","stream_id":"t"}',
        '\ufeff{"type":"ping"}',
        '{"type":"subscribe","stream_id":"\\ud800"}',
        '{"type":"subscribe"}',
        '{"type":"unknown"}',
        "{}",
        "null",
        "",
    ],
    ids=lambda text: text[:24],
)
async def test_b28_b29_odd_json_is_one_error_and_the_socket_stays(apex: Apex, text: str) -> None:
    async with connect(apex, ISSUER.token("read")) as socket:
        await socket.send(text)
        assert (await hears(socket))["error"]["code"] == "bad_request"
        await says(socket, type="ping")
        assert (await hears(socket))["type"] == "pong"


async def test_b35_a_cursor_that_nobody_minted_is_refused(apex: Apex) -> None:
    forged = "0000000000000003_0_" + "A" * 22
    async with connect(apex, ISSUER.token("read")) as socket:
        for cursor in (forged, "x", "", forged * 100):
            await says(socket, type="subscribe", stream_id="s", cursor=cursor)
            assert (await hears(socket))["error"]["code"] in {"cursor_invalid", "bad_request"}


async def test_b39_nothing_of_ours_unpacks_archives() -> None:
    sources = Path(apexstream.gateway.build.__file__).parents[1].rglob("*.py")
    unpackers = ("zipfile", "tarfile", "unpack_archive")
    assert [path.name for path in sources if any(word in path.read_text() for word in unpackers)] == []
