/* Where a viewer stands in a stream: decides for each event whether it is next, known already, or beyond a gap. */
import type { StreamEvent } from "./frames.ts";
import { ends } from "./frames.ts";

export type Verdict = "deliver" | "known" | "gap";

/** Where to begin; without anything, at the first chunk. */
export type Start =
  | { readonly fromSeq?: number }
  /** Behind the event that had this cursor. */
  | { readonly cursor: string }
  /** With the last so many chunks; 0: with what comes. */
  | { readonly tail: number }
  /** With the first chunk of that time (microseconds since the epoch) or later, or a little before. */
  | { readonly fromTimeUs: number };

/** A start, and what of the stream is to be shown: `{operators: [...]}`, see docs/pipelines.md. */
export type Asked = Start & { readonly view?: object };

export class Position {
  readonly #start: Start;
  readonly #sparse: boolean;
  /** The seq that must come next; null while only the gateway knows where the stream begins for this viewer. */
  next: number | null;
  cursor = "";
  ended = false;

  /** `sparse`: seqs may be left out, as a view does. */
  constructor(start: Start = {}, sparse = false) {
    this.#start = start;
    this.#sparse = sparse;
    this.next = "cursor" in start || "tail" in start || "fromTimeUs" in start ? null : (start.fromSeq ?? 0);
  }

  /** What a subscription asks for, to go on here. */
  get asks(): Record<string, string | number> {
    if (this.cursor !== "") return { cursor: this.cursor };
    if (this.next !== null) return { from_seq: this.next };
    const start = this.#start;
    if ("cursor" in start) return { cursor: start.cursor };
    return "tail" in start ? { tail: start.tail } : { from_time: (start as { fromTimeUs: number }).fromTimeUs };
  }

  /** Judge `event` and move on if it is to be delivered. After the end nothing more is. */
  take(event: StreamEvent): Verdict {
    if (this.ended) return "known";
    const verdict = this.#judge(event);
    if (verdict === "deliver") {
      this.next = event.kind === "rewind" ? event.seq : event.seq + 1;
      this.cursor = event.cursor;
      this.ended = ends(event);
    }
    return verdict;
  }

  #judge(event: StreamEvent): Verdict {
    if (this.next === null) return "deliver";
    if (event.kind === "rewind") return event.seq < this.next ? "deliver" : "known"; // else nothing delivered is affected
    if (event.seq === this.next || (this.#sparse && event.seq > this.next)) return "deliver";
    return event.seq < this.next ? "known" : "gap";
  }
}
