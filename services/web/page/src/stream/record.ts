/* What a viewer knows of one stream besides its rows: how much there is, how far it is, how it ended. */
import { ends } from "../../../client/src/index.ts";
import type { End, Progress, StreamEvent } from "../../../client/src/index.ts";

export class StreamRecord {
  chunks = 0;
  progress: Progress | null = null;
  end: End | null = null;
  readonly #progressSeqs: number[] = []; // ascending; what it takes to count exactly after a rewind

  /** Fold one event in. The result is how many chunks a rewind took back, else 0. */
  apply(event: StreamEvent): number {
    if (event.kind === "update") this.chunks += 1;
    else if (event.kind === "progress") this.#advance(event);
    else if (ends(event)) this.end = event;
    else return this.#rewind(event.seq);
    return 0;
  }

  #advance(progress: Progress): void {
    this.progress = progress;
    this.#progressSeqs.push(progress.seq);
  }

  #rewind(seq: number): number {
    while ((this.#progressSeqs.at(-1) ?? -1) >= seq) this.#progressSeqs.pop();
    if (this.progress !== null && this.progress.seq >= seq) this.progress = null;
    const left = seq - this.#progressSeqs.length;
    const lost = this.chunks - left;
    this.chunks = left;
    return lost;
  }
}
