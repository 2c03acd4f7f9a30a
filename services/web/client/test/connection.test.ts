import assert from "node:assert/strict";
import { test } from "node:test";

import { Connection } from "../src/connection.ts";
import type { ConnectionOptions, Follower, Link, Ports, Socket } from "../src/connection.ts";
import type { StreamEvent } from "../src/frames.ts";

class FakeSocket implements Socket {
  onopen: Socket["onopen"] = null;
  onerror: Socket["onerror"] = null;
  onmessage: Socket["onmessage"] = null;
  onclose: Socket["onclose"] = null;
  closed = false;
  readonly sent: { type: string; stream_id?: string; from_seq?: number; cursor?: string; token?: string }[] = [];

  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }

  close(): void {
    this.closed = true;
  }

  receive(frame: object): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  update(seq: number): void {
    this.receive({ type: "stream_update", stream_id: "s", seq, data: seq, cursor: `c${seq + 1}` });
  }
}

class FakePorts implements Ports {
  readonly sockets: FakeSocket[] = [];
  nowMs = 0;
  waits: { ms: number; action: () => void }[] = [];

  get socket(): FakeSocket {
    return this.sockets.at(-1) ?? assert.fail("no socket was opened");
  }

  open(): Socket {
    this.sockets.push(new FakeSocket());
    return this.socket;
  }

  after(ms: number, action: () => void): () => void {
    const wait = { ms, action };
    this.waits.push(wait);
    return () => (this.waits = this.waits.filter((other) => other !== wait));
  }

  random(): number {
    return 0.5;
  }

  now(): number {
    return this.nowMs;
  }

  /** Let the one timer that runs go off. */
  elapse(): void {
    assert.equal(this.waits.length, 1);
    this.nowMs += this.waits[0]?.ms ?? 0;
    this.waits.shift()?.action();
  }
}

class FakeFollower implements Follower {
  readonly events: StreamEvent[] = [];
  readonly links: Link[] = [];
  readonly refusals: string[] = [];

  get seqs(): number[] {
    return this.events.map((event) => event.seq);
  }

  onEvent(event: StreamEvent): void {
    this.events.push(event);
  }

  onLink(link: Link): void {
    this.links.push(link);
  }

  onRefused(error: { code: string }): void {
    this.refusals.push(error.code);
  }
}

function following(options: ConnectionOptions = {}) {
  const ports = new FakePorts();
  const connection = new Connection("ws://test/stream", ports, options);
  const follower = new FakeFollower();
  const leave = connection.follow("s", follower);
  ports.socket.onopen?.();
  return { ports, connection, follower, leave };
}

function subscribed(place: object) {
  return { type: "subscribe", stream_id: "s", ...place, cursors: true, batches: true };
}

test("a stream is followed from its start", () => {
  const { ports } = following();

  assert.deepEqual(ports.socket.sent, [subscribed({ from_seq: 0 })]);
});

test("after a lost socket the stream resumes at the last cursor and repeats nothing", () => {
  const { ports, follower } = following();
  ports.socket.update(0);
  ports.socket.update(1);

  ports.socket.onclose?.({ code: 1006, reason: "" });
  ports.elapse();
  ports.socket.onopen?.();
  for (const seq of [1, 2, 3]) ports.socket.update(seq);

  assert.deepEqual(ports.socket.sent, [subscribed({ cursor: "c2" })]);
  assert.deepEqual(follower.seqs, [0, 1, 2, 3]);
});

test("a gap drops the socket and asks again for what is missing", () => {
  const { ports, follower } = following();
  ports.socket.update(0);
  const gapped = ports.socket;

  gapped.update(2);
  ports.elapse();
  ports.socket.onopen?.();

  assert.ok(gapped.closed);
  assert.equal(ports.socket.sent[0]?.cursor, "c1");
  assert.deepEqual(follower.seqs, [0]);
});

test("a gap that stays ends the following with an error", () => {
  const { ports, follower } = following();
  for (let round = 0; round < 2; round += 1) {
    ports.socket.update(7);
    if (round < 1) ports.elapse();
    ports.socket.onopen?.();
  }

  assert.deepEqual(follower.refusals, ["data_corruption"]);
});

test("a rewind makes the same seqs count again", () => {
  const { ports, follower } = following();
  for (const seq of [0, 1, 2]) ports.socket.update(seq);

  ports.socket.receive({ type: "stream_rewind", stream_id: "s", seq: 1 });
  for (const seq of [1, 2]) ports.socket.update(seq);

  assert.deepEqual(follower.seqs, [0, 1, 2, 1, 1, 2]);
});

test("a stream that has ended is not asked for again", () => {
  const { ports, follower } = following();
  ports.socket.update(0);
  ports.socket.receive({ type: "stream_complete", stream_id: "s", seq: 1 });

  ports.socket.onclose?.({ code: 1006, reason: "" });

  assert.equal(follower.events.at(-1)?.kind, "complete");
  assert.deepEqual(ports.waits, []);
});

test("a terminal close code is not answered with a new connection", () => {
  const { ports, follower } = following();

  ports.socket.onclose?.({ code: 4503, reason: "not allowed" });

  assert.deepEqual(ports.waits, []);
  assert.deepEqual(follower.links.at(-1), { state: "refused", code: "bad_request", reason: "not allowed" });
});

test("waits grow with every failure in a row and start over once a frame came", () => {
  const { ports } = following();
  const waited: number[] = [];
  for (let failure = 0; failure < 4; failure += 1) {
    ports.socket.onclose?.({ code: 1006, reason: "" });
    waited.push(ports.waits[0]?.ms ?? 0);
    ports.elapse();
  }
  ports.socket.onopen?.();
  ports.socket.update(0);
  ports.socket.onclose?.({ code: 1006, reason: "" });

  assert.deepEqual(waited, [300, 550, 1_050, 2_050]);
  assert.equal(ports.waits[0]?.ms, 300);
});

test("silence is answered with a ping, and silence after it with a new connection", () => {
  const { ports } = following();
  const silent = ports.socket;

  ports.elapse();
  assert.equal(silent.sent.at(-1)?.type, "ping");
  ports.elapse();

  assert.ok(silent.closed);
  assert.equal(ports.waits.length, 1);
});

test("a socket that does not open in time is given up for another one", () => {
  const ports = new FakePorts();
  new Connection("ws://test/stream", ports).follow("s", new FakeFollower());
  const silent = ports.socket;
  assert.deepEqual(
    ports.waits.map(({ ms }) => ms),
    [10_000],
  );

  ports.elapse();
  ports.elapse();

  assert.ok(silent.closed);
  assert.equal(ports.sockets.length, 2);
});

test("a socket that fails to open and is never said to be closed is replaced", () => {
  const ports = new FakePorts();
  new Connection("ws://test/stream", ports).follow("s", new FakeFollower());

  ports.socket.onerror?.();
  ports.elapse();

  assert.equal(ports.sockets.length, 2);
});

test("an error on an open socket is not taken for its end, whose code is still to come", () => {
  const { ports, follower } = following();

  ports.socket.onerror?.();
  ports.socket.onclose?.({ code: 4503, reason: "not allowed" });

  assert.equal(follower.links.at(-1)?.state, "refused");
});

test("a pong keeps the connection", () => {
  const { ports } = following();
  ports.elapse();
  ports.socket.receive({ type: "pong" });

  ports.elapse();

  assert.ok(!ports.socket.closed);
});

test("leaving a stream says so to the gateway and delivers nothing more", () => {
  const { ports, follower, leave } = following();

  leave();
  ports.socket.update(0);

  assert.deepEqual(ports.socket.sent.at(-1), { type: "unsubscribe", stream_id: "s" });
  assert.deepEqual(follower.events, []);
});

test("a second stream uses the same socket", () => {
  const { ports, connection } = following();

  connection.follow("t", new FakeFollower());

  assert.equal(ports.sockets.length, 1);
  assert.equal(ports.socket.sent.at(-1)?.stream_id, "t");
});

test("frames that no version knows are passed over", () => {
  const { ports, follower } = following();

  for (const text of ["", "null", "[1]", '{"type":"new"}', '{"type":"stream_update","stream_id":"s","seq":-1}', "{"]) {
    ports.socket.onmessage?.({ data: text });
  }
  ports.socket.onmessage?.({ data: new ArrayBuffer(4) });

  assert.deepEqual(follower.events, []);
  assert.ok(!ports.socket.closed);
});

test("messages in one text come in their order", () => {
  const { ports, follower } = following();

  ports.socket.receive([0, 1].map((seq) => ({ type: "stream_update", stream_id: "s", seq, data: seq })));

  assert.deepEqual(follower.seqs, [0, 1]);
});

test("a socket that nobody needs any more is closed after a while, unless somebody comes", () => {
  const { ports, connection, leave } = following({ idleMs: 50 });
  leave();
  connection.follow("t", new FakeFollower())();
  assert.deepEqual(
    ports.waits.map(({ ms }) => ms),
    [50],
  );

  ports.elapse();

  assert.ok(ports.socket.closed);
  connection.follow("t", new FakeFollower());
  assert.equal(ports.sockets.length, 2);
});

test("a stream that is held stays so on the next socket", () => {
  const { ports, connection } = following();
  connection.hold("s", true);

  ports.socket.onclose?.({ code: 1006, reason: "" });
  ports.elapse();
  ports.socket.onopen?.();

  assert.deepEqual(ports.socket.sent.at(-1), { type: "hold", stream_id: "s" });
});

test("who asks for more of it later waits longer than who lost a connection", () => {
  const { ports } = following();

  ports.socket.onclose?.({ code: 4429, reason: "too many" });

  assert.equal(ports.waits[0]?.ms, 1_300);
});

test("without a connection for too long there is an end", () => {
  const { ports, follower } = following({ patience: { offlineMaxMs: 1_000 } });
  for (let failure = 0; failure < 3; failure += 1) {
    ports.socket.onclose?.({ code: 1006, reason: "" });
    ports.elapse();
  }

  ports.socket.onclose?.({ code: 1006, reason: "" });

  const link = follower.links.at(-1);
  assert.equal(link?.state === "refused" && link.code, "unavailable");
  assert.deepEqual(ports.waits, []);
});

test("a token that was renewed meanwhile is shown on the next socket, and the same one not again", () => {
  let token = "old";
  const { ports, follower } = following({ credential: () => ({ token }) });
  token = "new";
  ports.socket.onclose?.({ code: 4401, reason: "expired" });
  ports.elapse();
  ports.socket.onopen?.();
  assert.equal(ports.socket.sent[0]?.token, "new");

  ports.socket.onclose?.({ code: 4401, reason: "expired" });

  const link = follower.links.at(-1);
  assert.equal(link?.state === "refused" && link.code, "unauthenticated");
});

test("a token that expires is replaced on the socket that is open", () => {
  let token = "old";
  const { ports } = following({ credential: () => ({ token }) });
  token = "new";

  ports.socket.receive({ type: "expiring", in_s: 60 });

  assert.deepEqual(ports.socket.sent.at(-1), { type: "authenticate", token: "new" });
});
