/* The frames of the WebSocket `/stream`, as values. Only this module knows their spelling. */
import { errorOf, fieldsOf, numberOf, own, textOf, wholeOf } from "./reading.ts";
import type { ErrorInfo, Fields } from "./reading.ts";

export interface Update {
  readonly kind: "update";
  readonly seq: number;
  readonly data: unknown;
  /** Empty for JSON. */
  readonly contentType: string;
  readonly base64: boolean;
  /** Length of the frame's text: what keeping the data costs. */
  readonly chars: number;
}

export interface Progress {
  readonly kind: "progress";
  readonly seq: number;
  /** 0 to 100, or null where the plugin cannot tell. */
  readonly percentage: number | null;
  readonly message: string;
  readonly status: string;
}

export type End =
  | { readonly kind: "complete"; readonly seq: number }
  | { readonly kind: "error"; readonly seq: number; readonly error: ErrorInfo }
  | { readonly kind: "cancelled"; readonly seq: number; readonly receipt: unknown };

/** Everything from `seq` on never happened: an attempt that failed had written it. */
export interface Rewind {
  readonly kind: "rewind";
  readonly seq: number;
}

export type StreamEvent = Update | Progress | End | Rewind;

export type ServerFrame =
  | { readonly type: "event"; readonly streamId: string; readonly event: StreamEvent }
  | { readonly type: "refusal"; readonly streamId: string; readonly error: ErrorInfo }
  | { readonly type: "pong" };

export function ends(event: StreamEvent): event is End {
  return event.kind === "complete" || event.kind === "error" || event.kind === "cancelled";
}

export function authenticateFrame(token: string): string {
  return JSON.stringify({ type: "authenticate", token });
}

export function subscribeFrame(streamId: string, fromSeq: number): string {
  return JSON.stringify({ type: "subscribe", stream_id: streamId, from_seq: fromSeq });
}

export function unsubscribeFrame(streamId: string): string {
  return JSON.stringify({ type: "unsubscribe", stream_id: streamId });
}

export const PING_FRAME = JSON.stringify({ type: "ping" });

/** The frame in `text`, or null for what this version does not know; unknown frames are for newer pages. */
export function parseFrame(text: string): ServerFrame | null {
  const fields = fieldsOf(parseJson(text));
  const type = textOf(own(fields, "type"));
  const streamId = textOf(own(fields, "stream_id"));
  if (type === "pong") return { type: "pong" };
  if (type === "error") return { type: "refusal", streamId, error: errorOf(own(fields, "error")) };
  const seq = wholeOf(own(fields, "seq"));
  if (seq === null || streamId === "") return null;
  const event = eventOf(type, seq, fields, text.length);
  return event && { type: "event", streamId, event };
}

const MAY_BE_INEXACT = /\d{16}/; // only then the slower reading that looks at each number is worth its time

function parseJson(text: string): unknown {
  try {
    return MAY_BE_INEXACT.test(text) ? JSON.parse(text, exactly) : JSON.parse(text);
  } catch {
    return null;
  }
}

/** A whole number that a double would round, such as a 64-bit id, as a bigint; browsers that cannot tell round it. */
function exactly(this: unknown, _: string, value: unknown, context?: { source?: string }): unknown {
  const source = context?.source ?? "";
  return typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(source) ? BigInt(source) : value;
}

function eventOf(type: string, seq: number, fields: Fields, chars: number): StreamEvent | null {
  switch (type) {
    case "stream_update":
      return updateOf(seq, fields, chars);
    case "stream_progress":
      return progressOf(seq, fieldsOf(own(fields, "progress")));
    case "stream_complete":
      return { kind: "complete", seq };
    case "stream_error":
      return { kind: "error", seq, error: errorOf(own(fields, "error")) };
    case "stream_cancelled":
      return { kind: "cancelled", seq, receipt: own(fields, "data") ?? null };
    case "stream_rewind":
      return { kind: "rewind", seq };
    default:
      return null;
  }
}

function updateOf(seq: number, fields: Fields, chars: number): Update {
  return {
    kind: "update",
    seq,
    data: own(fields, "data") ?? null,
    contentType: textOf(own(fields, "content_type")),
    base64: own(fields, "encoding") === "base64",
    chars,
  };
}

function progressOf(seq: number, fields: Fields): Progress {
  const percentage = numberOf(own(fields, "percentage"));
  return {
    kind: "progress",
    seq,
    percentage: percentage === null ? null : Math.min(100, Math.max(0, percentage)),
    message: textOf(own(fields, "message")),
    status: textOf(own(fields, "status")),
  };
}
