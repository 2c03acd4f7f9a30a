/* Which rows a page holds: a bounded window on a stream that may be endless. Knows no document. */
import type { Update } from "../../../client/src/index.ts";

export type Entry =
  | { readonly kind: "chunk"; readonly seq: number; readonly chunk: Update }
  | { readonly kind: "notice"; readonly seq: number; readonly text: string };

/** What to do to the rows on the page: first take away at the top, then add at the bottom. */
export interface Change {
  readonly removeFirst: number;
  readonly append: readonly Entry[];
}

export const ROWS_MAX = 500;
const CHARS_MAX = 8_000_000; // of frames kept for unfolding; large chunks leave room for fewer rows

export class RowQueue {
  readonly #shown = new Stretch();
  readonly #waiting = new Stretch();
  #skipped = 0;

  /** How many rows are on the page. */
  get shown(): number {
    return this.#shown.entries.length;
  }

  /** How many newer entries are not on the page, including those that were let go meanwhile. */
  get waiting(): number {
    return this.#waiting.entries.length + this.#skipped;
  }

  push(entry: Entry): void {
    this.#waiting.push(entry);
    this.#skipped += this.#waiting.trim().length;
  }

  /** Go on to the newest entries, letting the oldest go. */
  follow(): Change {
    const gone = this.#skipped > 0 ? this.#shown.take(this.shown).length : 0;
    this.#skipped = 0;
    const append = this.#waiting.take(ROWS_MAX);
    for (const entry of append) this.#shown.push(entry);
    return { removeFirst: gone + this.#shown.trim().length, append };
  }

  /** Add below what fits, moving nothing that a reader looks at. */
  hold(): Change {
    const append = this.#skipped > 0 ? [] : this.#waiting.take(ROWS_MAX - this.shown);
    for (const entry of append) this.#shown.push(entry);
    return { removeFirst: 0, append };
  }

  /** Forget everything from `seq` on. The result is how many rows to take away at the bottom. */
  rewind(seq: number): number {
    this.#waiting.cutFrom(seq);
    return this.#shown.cutFrom(seq);
  }
}

/** Entries in the order of their seq, and what they weigh. */
class Stretch {
  readonly entries: Entry[] = [];
  #chars = 0;

  push(entry: Entry): void {
    this.entries.push(entry);
    this.#chars += weight(entry);
  }

  /** Remove and return the first `count`. */
  take(count: number): readonly Entry[] {
    const taken = this.entries.splice(0, count);
    for (const entry of taken) this.#chars -= weight(entry);
    return taken;
  }

  /** Remove and return the first ones that are too many; the last one always stays. */
  trim(): readonly Entry[] {
    if (this.entries.length <= ROWS_MAX && this.#chars <= CHARS_MAX) return [];
    let chars = this.#chars;
    let count = Math.max(0, this.entries.length - ROWS_MAX);
    for (const entry of this.entries.slice(0, count)) chars -= weight(entry);
    while (chars > CHARS_MAX && count < this.entries.length - 1) chars -= weight(this.entries[count++]);
    return this.take(count);
  }

  cutFrom(seq: number): number {
    const keep = this.entries.findIndex((entry) => entry.seq >= seq);
    const cut = keep < 0 ? [] : this.entries.splice(keep);
    for (const entry of cut) this.#chars -= weight(entry);
    return cut.length;
  }
}

function weight(entry: Entry | undefined): number {
  return entry?.kind === "chunk" ? entry.chunk.chars : 0;
}
