import assert from "node:assert/strict";
import { test } from "node:test";

import { actionHash, routeOf, streamHash } from "../src/app/routes.ts";
import { ago, counted, sentence, span, stageOf } from "../src/app/words.ts";

test("addresses lead back to what they were made from", () => {
  assert.deepEqual(routeOf(streamHash("a.b-c_1")), { view: "stream", streamId: "a.b-c_1" });
  assert.deepEqual(routeOf(actionHash("p/q", "a b")), { view: "action", plugin: "p/q", action: "a b" });
  for (const start of ["", "#", "#/"]) assert.deepEqual(routeOf(start), { view: "start" });
});

test("addresses of nothing lead nowhere", () => {
  for (const hash of ["#/stream/", "#/stream/A", "#/stream/../x", "#/stream/%E0%A4%A", "#/other", "#/action/x"]) {
    assert.equal(routeOf(hash).view, "nowhere", hash);
  }
});

test("times and amounts are said as people say them", () => {
  assert.deepEqual([0, 999, 1_000, 59_949, 59_950, 125_000, 7_500_000].map(span), [
    "0 ms",
    "999 ms",
    "1.0 s",
    "59.9 s",
    "1 min 0 s",
    "2 min 5 s",
    "2 h 5 min",
  ]);
  assert.deepEqual([ago(1e12, 1e9), ago(1e12, 1e9 + 90_000), ago(2e12, 1e9)], ["now", "1 min. ago", "now"]);
  assert.deepEqual([counted(1, "chunk"), counted(1_234, "chunk")], ["1 chunk", "1,234 chunks"]);
  assert.deepEqual([sentence("Yes"), sentence("Really?")], ["Yes.", "Really?"]);
});

test("a state that this version does not know is none", () => {
  assert.deepEqual(["running", "toString", ""].map(stageOf), ["running", "unknown", "unknown"]);
});
