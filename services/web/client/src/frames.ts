/* The frames of the WebSocket `/stream`, as values. Only this module knows their spelling. */
import { errorOf, fieldsOf, numberOf, own, textOf, wholeOf } from "./reading.ts";
import type { ErrorInfo, Fields } from "./reading.ts";

/** `cursor` is where a viewer is that has the event: to be kept, and to go on there with any protocol; empty without one. */
interface Placed {
  readonly seq: number;
  readonly cursor: string;
}

export interface Update extends Placed {
  readonly kind: "update";
  readonly data: unknown;
  /** Empty for JSON. */
  readonly contentType: string;
  readonly base64: boolean;
  /** Length of the frame's text: what keeping the data costs. */
  readonly chars: number;
}

export interface Progress extends Placed {
  readonly kind: "progress";
  /** 0 to 100, or null where the plugin cannot tell. */
  readonly percentage: number | null;
  readonly message: string;
  readonly status: string;
}

export type End = Placed &
  (
    | { readonly kind: "complete" }
    | { readonly kind: "error"; readonly error: ErrorInfo }
    | { readonly kind: "cancelled"; readonly receipt: unknown }
  );

/** Everything from `seq` on never happened: an attempt that failed had written it. */
export interface Rewind extends Placed {
  readonly kind: "rewind";
}

export type StreamEvent = Update | Progress | End | Rewind;

export type ServerFrame =
  | { readonly type: "event"; readonly streamId: string; readonly event: StreamEvent }
  | { readonly type: "refusal"; readonly streamId: string; readonly error: ErrorInfo }
  | { readonly type: "expiring" }
  | { readonly type: "pong" };

export function ends(event: StreamEvent): event is End {
  return event.kind === "complete" || event.kind === "error" || event.kind === "cancelled";
}

/** The chunk as the plugin yielded it: a JSON value, a text, or bytes. */
export function valueOf(update: Update): unknown {
  if (!update.base64) return update.data;
  return Uint8Array.from(atob(textOf(update.data)), (character) => character.charCodeAt(0));
}

/** What proves who a client is: a token, or a ticket that is good once. Neither: the gateway asks nobody. */
export interface Credential {
  readonly token?: string;
  readonly ticket?: string;
}

export function authenticateFrame(credential: Credential): string {
  return JSON.stringify({ type: "authenticate", ...credential });
}

export function subscribeFrame(
  streamId: string,
  asks: Readonly<Record<string, string | number>>,
  view: object | undefined,
): string {
  return JSON.stringify({ type: "subscribe", stream_id: streamId, ...asks, cursors: true, batches: true, view });
}

export function streamFrame(type: "unsubscribe" | "hold" | "release", streamId: string): string {
  return JSON.stringify({ type, stream_id: streamId });
}

export const PING_FRAME = JSON.stringify({ type: "ping" });

/** The frames in a message, in order. What this version does not know is left out: it is for newer pages. */
export function parseFrames(text: string): readonly ServerFrame[] {
  const parsed = parseJson(text);
  const messages = Array.isArray(parsed) ? parsed : [parsed];
  const chars = Math.ceil(text.length / Math.max(1, messages.length));
  return messages.flatMap((message) => frameOf(fieldsOf(message), chars) ?? []);
}

function frameOf(fields: Fields, chars: number): ServerFrame | null {
  const type = textOf(own(fields, "type"));
  const streamId = textOf(own(fields, "stream_id"));
  if (type === "pong" || type === "expiring") return { type };
  if (type === "error") return { type: "refusal", streamId, error: errorOf(own(fields, "error")) };
  const seq = wholeOf(own(fields, "seq"));
  if (seq === null || streamId === "") return null;
  const event = eventOf(type, { seq, cursor: textOf(own(fields, "cursor")) }, fields, chars);
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

function eventOf(type: string, place: Placed, fields: Fields, chars: number): StreamEvent | null {
  switch (type) {
    case "stream_update":
      return { kind: "update", ...place, ...contentOf(fields), chars };
    case "stream_progress":
      return { kind: "progress", ...place, ...progressOf(fieldsOf(own(fields, "progress"))) };
    case "stream_complete":
      return { kind: "complete", ...place };
    case "stream_error":
      return { kind: "error", ...place, error: errorOf(own(fields, "error")) };
    case "stream_cancelled":
      return { kind: "cancelled", ...place, receipt: own(fields, "data") ?? null };
    case "stream_rewind":
      return { kind: "rewind", ...place };
    default:
      return null;
  }
}

function contentOf(fields: Fields) {
  return {
    data: own(fields, "data") ?? null,
    contentType: textOf(own(fields, "content_type")),
    base64: own(fields, "encoding") === "base64",
  };
}

function progressOf(fields: Fields) {
  const percentage = numberOf(own(fields, "percentage"));
  return {
    percentage: percentage === null ? null : Math.min(100, Math.max(0, percentage)),
    message: textOf(own(fields, "message")),
    status: textOf(own(fields, "status")),
  };
}
