import assert from "node:assert/strict";
import { test } from "node:test";

import { retryAfterMs } from "../src/backoff.ts";
import { newId } from "../src/client.ts";
import { reconnectAfter } from "../src/closing.ts";
import { Connection } from "../src/connection.ts";
import type { Ports, Socket } from "../src/connection.ts";
import { parseFrames, valueOf } from "../src/frames.ts";
import { Reader, WAITING_EVENTS_MAX } from "../src/reader.ts";

class Wire implements Socket {
  onopen: Socket["onopen"] = null;
  onerror: Socket["onerror"] = null;
  onmessage: Socket["onmessage"] = null;
  onclose: Socket["onclose"] = null;
  readonly sent: string[] = [];

  send(text: string): void {
    this.sent.push(JSON.parse(text).type);
  }

  close(): void {}

  updates(from: number, to: number): void {
    const seqs = Array.from({ length: to - from }, (_, at) => from + at);
    this.onmessage?.({ data: JSON.stringify(seqs.map((seq) => ({ type: "stream_update", stream_id: "s", seq, data: seq }))) });
  }

  say(message: object): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
}

function reading(signal?: AbortSignal) {
  const wire = new Wire();
  const ports: Ports = { open: () => wire, after: () => () => {}, random: () => 0, now: () => 0 };
  const connection = new Connection("ws://test/stream", ports);
  const reader = new Reader(connection, "s", {}, signal ? { signal } : {});
  wire.onopen?.();
  return { wire, reader, connection };
}

test("what came before it was asked for is given in order, and the end ends the loop", async () => {
  const { wire, reader } = reading();
  wire.updates(0, 3);
  wire.say({ type: "stream_complete", stream_id: "s", seq: 3 });

  const kinds = [];
  for await (const event of reader) kinds.push(`${event.kind} ${event.seq}`);

  assert.deepEqual(kinds, ["update 0", "update 1", "update 2", "complete 3"]);
});

test("a reader that takes nothing has the stream held, and released once it has caught up", async () => {
  const { wire, reader } = reading();
  wire.updates(0, WAITING_EVENTS_MAX);
  assert.deepEqual(wire.sent, ["subscribe", "hold"]);

  for (let taken = 0; taken < WAITING_EVENTS_MAX; taken += 1) await reader.next();

  assert.deepEqual(wire.sent, ["subscribe", "hold", "release"]);
});

test("leaving the loop leaves the stream", async () => {
  const { wire, reader, connection } = reading();
  wire.updates(0, 3);

  for await (const event of reader) if (event.seq === 1) break;

  assert.deepEqual(wire.sent, ["subscribe", "unsubscribe"]);
  assert.ok(!connection.follows("s"));
  assert.deepEqual(await reader.next(), { done: true, value: undefined });
});

test("what is refused is thrown with its code, after what had come", async () => {
  const { wire, reader } = reading();
  wire.updates(0, 1);
  wire.say({ type: "error", stream_id: "s", error: { code: "erased", message: "gone" } });

  assert.equal((await reader.next()).value?.seq, 0);
  await assert.rejects(reader.next(), { info: { code: "erased", message: "gone", where: "", hint: "" } });
  assert.equal((await reader.next()).done, true);
});

test("an aborted signal ends a wait with its reason", async () => {
  const abort = new AbortController();
  const { reader } = reading(abort.signal);
  const waiting = reader.next();

  abort.abort(new Error("enough"));

  await assert.rejects(waiting, { message: "enough" });
});

test("bytes come as bytes", () => {
  const [frame] = parseFrames('{"type":"stream_update","stream_id":"s","seq":0,"data":"AP8=","encoding":"base64"}');

  assert.ok(frame?.type === "event" && frame.event.kind === "update");
  assert.deepEqual(valueOf(frame.event), Uint8Array.of(0, 255));
});

test("a close code is interpreted as the gateway's table says, and an unknown one allows to connect again", () => {
  assert.deepEqual(
    [1006, 3000, 4000, 4399, 4401, 4499, 4500, 4999, 1009].map(reconnectAfter),
    ["yes", "yes", "yes", "yes", "later", "later", "no", "no", "no"],
  );
});

test("a pause is read from seconds and from a date", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");

  assert.equal(retryAfterMs("2", now), 2_000);
  assert.equal(retryAfterMs("Thu, 01 Jan 2026 00:00:03 GMT", now), 3_000);
  assert.equal(retryAfterMs("Wed, 31 Dec 2025 00:00:00 GMT", now), 0);
  assert.equal(retryAfterMs("soon", now), null);
  assert.equal(retryAfterMs(null, now), null);
});

test("ids are 26 characters that sort by time", () => {
  const [early, late] = [newId(1_000), newId(2_000)];

  assert.match(early, /^[0-9a-hjkmnp-tv-z]{26}$/);
  assert.ok(early < late);
  assert.notEqual(newId(1_000), early);
});
