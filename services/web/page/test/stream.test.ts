import assert from "node:assert/strict";
import { test } from "node:test";

import { parseFrames } from "../../client/src/frames.ts";
import type { Update } from "../../client/src/index.ts";
import { faceOf, wholeOf } from "../src/stream/face.ts";
import { compactJson, indentedJson } from "../src/stream/json-text.ts";
import { StreamRecord } from "../src/stream/record.ts";
import { RowQueue, ROWS_MAX } from "../src/stream/row-queue.ts";
import type { Entry } from "../src/stream/row-queue.ts";
import { receiptWords, stageAt } from "../src/stream/saying.ts";

function update(seq: number, data: unknown = seq, chars = 10): Update {
  return { kind: "update", seq, cursor: "", data, contentType: "", base64: false, chars };
}

function entry(seq: number, chars = 10): Entry {
  return { kind: "chunk", seq, chunk: update(seq, seq, chars) };
}

function filled(count: number): RowQueue {
  const queue = new RowQueue();
  for (let seq = 0; seq < count; seq += 1) queue.push(entry(seq));
  return queue;
}

function text(tokens: readonly { text: string }[]): string {
  return tokens.map((token) => token.text).join("");
}

test("rows that are followed never exceed the bound, and the newest are kept", () => {
  const queue = filled(400);
  queue.follow();
  for (let seq = 400; seq < 700; seq += 1) queue.push(entry(seq));

  const { removeFirst, append } = queue.follow();

  assert.deepEqual([removeFirst, append.length, queue.shown], [200, 300, ROWS_MAX]);
  assert.equal(append.at(-1)?.seq, 699);
});

test("more new entries than the bound replace all rows", () => {
  const queue = filled(10);
  queue.follow();
  for (let seq = 10; seq < 2_000; seq += 1) queue.push(entry(seq));

  const { removeFirst, append } = queue.follow();

  assert.deepEqual([removeFirst, append[0]?.seq, append.length], [10, 1_500, ROWS_MAX]);
});

test("a reader's rows stay while new entries wait, with an exact count", () => {
  const queue = filled(ROWS_MAX);
  queue.follow();
  for (let seq = 0; seq < 1_234; seq += 1) queue.push(entry(ROWS_MAX + seq));

  const change = queue.hold();

  assert.deepEqual(change, { removeFirst: 0, append: [] });
  assert.equal(queue.waiting, 1_234);
});

test("large chunks leave room for fewer rows", () => {
  const queue = new RowQueue();
  for (let seq = 0; seq < 20; seq += 1) queue.push(entry(seq, 1_000_000));

  assert.equal(queue.follow().append.length, 8);
});

test("a rewind takes back rows on the page and entries on their way", () => {
  const queue = filled(5);
  queue.follow();
  queue.push(entry(5));

  const gone = queue.rewind(3);

  assert.deepEqual([gone, queue.shown, queue.waiting], [2, 3, 0]);
});

test("a rewind takes back exactly the chunks from its seq on", () => {
  const record = new StreamRecord();
  const progress = { kind: "progress", cursor: "", percentage: 50, message: "", status: "" } as const;
  for (let seq = 0; seq < 5; seq += 1) record.apply(seq % 2 ? { ...progress, seq } : update(seq));

  const lost = record.apply({ kind: "rewind", seq: 2, cursor: "" });

  assert.deepEqual([lost, record.chunks, record.progress], [2, 1, null]);
});

test("the stream's end stands above what the task says", () => {
  const record = new StreamRecord();
  record.apply({ kind: "cancelled", seq: 0, cursor: "", receipt: {} });

  assert.equal(stageAt(record, null, true), "cancelled");
});

test("chunks show that a task runs before its state says so", () => {
  const record = new StreamRecord();
  record.apply(update(0));

  assert.equal(stageAt(record, null, false), "running");
});

test("a receipt is said in words, whatever it holds", () => {
  assert.equal(
    receiptWords({ reason: "by request", stopped_at_seq: 3, after_ms: 40 }),
    "Stopped at seq 3, 40 ms after the request. Reason: by request.",
  );
  for (const odd of [null, 3, [], { reason: 1 }]) assert.equal(receiptWords(odd), "");
});

test("JSON is shown as it is, on one line or on many", () => {
  const value = { a: [1, null, "x"], b: {} };

  assert.equal(text(compactJson(value, 100)), '{"a": [1, null, "x"], "b": {}}');
  assert.equal(text(indentedJson(value, 100)), JSON.stringify(value, null, 2));
});

test("whole numbers beyond a double keep every digit", () => {
  const [frame] = parseFrames(
    '{"type":"stream_update","stream_id":"s","seq":0,"data":{"id":12345678901234567890,"x":0.1234567890123456}}',
  );
  assert.ok(frame?.type === "event" && frame.event.kind === "update");

  assert.equal(text(faceOf(frame.event).tokens), '{"id": 12345678901234567890, "x": 0.1234567890123456}');
});

test("large and deep values are cut", () => {
  let deep: unknown = 1;
  for (let depth = 0; depth < 100_000; depth += 1) deep = [deep];

  assert.ok(text(compactJson(deep, 1_000_000)).length < 100);
  assert.equal(text(compactJson("x".repeat(1_000_000), 10)).length, 11);
  assert.ok(indentedJson(Array(1_000_000).fill(1), 100).length < 200);
});

test("characters that hide or turn text are shown as escapes", () => {
  assert.equal(text(compactJson({ "a\u202eb": "\u200b" }, 100)), '{"a\\u202eb": "\\u200b"}');
  assert.equal(text(faceOf(update(0, "a\u202eb")).tokens), "a\\u202eb");
});

test("a string, or a field text, is prose; anything else is a value", () => {
  for (const data of ["hello", { text: "hello", n: 1 }])
    assert.deepEqual([faceOf(update(0, data)).prose, text(faceOf(update(0, data)).tokens)], [true, "hello"]);
  for (const data of [1, null, [], { text: 1 }, ""]) assert.equal(faceOf(update(0, data)).prose, false);
});

test("only a chunk with more to show can be expanded", () => {
  const expandable = (data: unknown) => faceOf(update(0, data)).expandable;

  assert.deepEqual([{ a: 1 }, { text: "x" }, "x".repeat(9_999)].map(expandable), [true, true, true]);
  assert.deepEqual([1, "short", [], {}].map(expandable), [false, false, false, false]);
  assert.ok(text(wholeOf(update(0, "x".repeat(100_000)))).endsWith("34464 more characters"));
});

test("binary chunks are told by type and size", () => {
  const [frame] = parseFrames(
    '{"type":"stream_update","stream_id":"s","seq":0,"data":"AAEC","content_type":"image/png","encoding":"base64"}',
  );
  assert.ok(frame?.type === "event" && frame.event.kind === "update");

  assert.equal(text(faceOf(frame.event).tokens), "image/png, 3 bytes");
});
