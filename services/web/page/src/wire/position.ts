/* Where a viewer stands in a stream: decides for each event whether it is next, known already, or beyond a gap. */
import type { StreamEvent } from "./frames.ts";
import { ends } from "./frames.ts";

export type Verdict = "deliver" | "known" | "gap";

export class Position {
  /** The seq to ask for when resuming. */
  next = 0;
  ended = false;

  /** Judge `event` and move on if it is to be delivered. After the end nothing more is. */
  take(event: StreamEvent): Verdict {
    if (this.ended) return "known";
    if (event.kind === "rewind") return this.#rewind(event.seq);
    if (event.seq < this.next) return "known";
    if (event.seq > this.next) return "gap";
    this.next += 1;
    this.ended = ends(event);
    return "deliver";
  }

  #rewind(seq: number): Verdict {
    if (seq >= this.next) return "known";
    this.next = seq;
    return "deliver";
  }
}
