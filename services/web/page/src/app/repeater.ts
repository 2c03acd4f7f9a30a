/* Asks again and again, while someone looks at the page. */

const HIDDEN_MS = 1_000;

export class Repeater {
  readonly #action: () => Promise<number>;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #run = 0; // a new run makes what an older one still waits for irrelevant

  /** `action` answers with the milliseconds until it wants to be called again; 0 ends it. */
  constructor(action: () => Promise<number>) {
    this.#action = action;
  }

  /** Call the action now, and from then on when it asks for it. */
  now(): void {
    this.stop();
    void this.#call(this.#run);
  }

  stop(): void {
    this.#run += 1;
    clearTimeout(this.#timer);
  }

  async #call(run: number): Promise<void> {
    const waitMs = document.hidden ? HIDDEN_MS : await this.#action();
    if (run === this.#run && waitMs > 0) this.#timer = setTimeout(() => void this.#call(run), waitMs);
  }
}
