import assert from "node:assert/strict";
import { test } from "node:test";

import { Connection } from "../../client/src/index.ts";
import type { Link, Socket } from "../../client/src/index.ts";
import { Token } from "../src/wire/token.ts";

function memory() {
  const kept = new Map<string, string>();
  return { getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, value: string) => kept.set(key, value) };
}

function connected(token: string) {
  const sent: { type: string; token?: string }[] = [];
  const links: Link[] = [];
  const sockets: Socket[] = [];
  const waits: number[] = [];
  const open = () => {
    const socket: Socket = {
      onopen: null,
      onerror: null,
      onmessage: null,
      onclose: null,
      send: (text) => sent.push(JSON.parse(text)),
      close: () => {},
    };
    sockets.push(socket);
    return socket;
  };
  const ports = { open, after: (ms: number) => (waits.push(ms), () => {}), random: () => 0.5, now: () => 0 };
  const connection = new Connection("ws://test/stream", ports, { credential: () => ({ token }) });
  connection.follow("s", { onEvent: () => {}, onLink: (link) => links.push(link), onRefused: () => {} });
  sockets[0]?.onopen?.();
  return { connection, sent, links, sockets };
}

test("a token comes out of the address once, and anything else in it is left alone", () => {
  const token = new Token(memory());

  assert.equal(token.take("#/stream/s"), false);
  assert.equal(token.value, "");
  assert.equal(token.take("#token=a.b-c_d"), true);
  assert.equal(token.value, "a.b-c_d");
  assert.equal(token.take("#token=<script>"), false);
  assert.equal(token.value, "a.b-c_d");
});

test("a socket says who it is before it asks for anything", () => {
  const { sent } = connected("t");

  assert.deepEqual(
    sent.map(({ type }) => type),
    ["authenticate", "subscribe"],
  );
  assert.equal(sent[0]?.token, "t");
});

test("without a token a socket says nothing of one", () => {
  const { sent } = connected("");

  assert.deepEqual(
    sent.map(({ type }) => type),
    ["subscribe"],
  );
});

test("a socket closed for want of a token waits for one instead of trying again", () => {
  const { connection, links, sockets } = connected("old");

  sockets[0]?.onclose?.({ code: 4401, reason: "the token has expired" });

  assert.deepEqual(links.at(-1), { state: "refused", code: "unauthenticated", reason: "the token has expired" });
  assert.equal(sockets.length, 1);
  connection.retryNow();
  assert.equal(sockets.length, 2);
});
