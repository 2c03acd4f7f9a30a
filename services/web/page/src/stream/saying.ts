/* What is said about a stream, as pure functions of what is known. */
import type { Stage } from "../app/words.ts";
import { sentence, span, stageOf } from "../app/words.ts";
import type { Task } from "../../../client/src/index.ts";
import { fieldsOf, numberOf, own, textOf, wholeOf } from "../../../client/src/reading.ts";
import type { StreamRecord } from "./record.ts";

const STAGE_AT_END = { complete: "completed", error: "failed", cancelled: "cancelled" } as const;

/** The stream's own end stands above all; before it, the task's state, unless that is behind the stream or ahead. */
export function stageAt(record: StreamRecord, task: Task | null, missing: boolean): Stage {
  if (record.end !== null) return STAGE_AT_END[record.end.kind];
  const told = task ? stageOf(task.status) : missing ? "unknown" : "waiting";
  if (told === "completed") return "loading";
  const behind = told === "unknown" || told === "waiting" || told === "assigned";
  return behind && record.chunks > 0 ? "running" : told;
}

export function emptyWords(stage: Stage, runners: number | null): string {
  switch (stage) {
    case "unknown":
      return "No task has this id. Check the address; if the task is yet to come, its chunks will appear here.";
    case "waiting":
      return runners === 0
        ? "No runner is connected, so the task waits. Start one with “apexstream serve runner”."
        : "The task waits for a free place on a runner.";
    case "completed":
      return "The action ended without a chunk.";
    case "failed":
    case "cancelled":
      return "There was no chunk before the end.";
    default:
      return "No chunk yet. They appear here one by one.";
  }
}

/** A cancellation's receipt, as far as it says something: reason, where the stream stopped, how long that took. */
export function receiptWords(receipt: unknown): string {
  const fields = fieldsOf(receipt);
  const seq = wholeOf(own(fields, "stopped_at_seq"));
  const afterMs = numberOf(own(fields, "after_ms"));
  const delay = afterMs === null ? "" : `, ${span(afterMs)} after the request`;
  const stopped = seq === null ? "" : `Stopped at seq ${seq}${delay}.`;
  const reason = textOf(own(fields, "reason"));
  return [stopped, reason && sentence(`Reason: ${reason}`)].filter(Boolean).join(" ");
}
