/* A stream as an async iterator: what has come and was not taken yet waits here, and not without end. */
import type { Connection, Follower, Link } from "./connection.ts";
import { GatewayError } from "./gateway.ts";
import { ends } from "./frames.ts";
import type { StreamEvent } from "./frames.ts";
import type { Asked } from "./position.ts";
import type { ErrorInfo } from "./reading.ts";

export const WAITING_EVENTS_MAX = 8_192; // then the gateway is asked to send no more for now
const GO_ON_EVENTS = 1_024; // left of them when it may go on

type Turn = IteratorResult<StreamEvent, undefined>;
const DONE: Turn = { done: true, value: undefined };

interface Waiter {
  resolve(turn: Turn): void;
  reject(problem: unknown): void;
}

export interface ReaderOptions {
  readonly signal?: AbortSignal;
  readonly onLink?: (link: Link) => void;
  /** Nothing more comes in; what has come may still be taken. */
  readonly onOver?: () => void;
}

/** Ends after the event that ends the stream. Leaving the loop, or `return()`, stops following; it cancels no task. */
export class Reader implements AsyncIterableIterator<StreamEvent>, Follower {
  readonly #connection: Connection;
  readonly #streamId: string;
  readonly #onLink: (link: Link) => void;
  readonly #onOver: () => void;
  readonly #leave: () => void;
  readonly #ignore: () => void; // the signal
  readonly #waiters: Waiter[] = [];
  #waiting: StreamEvent[] = [];
  #taken = 0; // of those that wait
  #over = false;
  #problem: unknown = null;

  constructor(connection: Connection, streamId: string, asked: Asked, options: ReaderOptions) {
    this.#connection = connection;
    this.#streamId = streamId;
    this.#onLink = options.onLink ?? (() => {});
    this.#onOver = options.onOver ?? (() => {});
    this.#leave = connection.follow(streamId, this, asked);
    const { signal } = options;
    const abort = () => this.#finish(signal?.reason);
    this.#ignore = () => signal?.removeEventListener("abort", abort);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<Turn> {
    const event = this.#waiting[this.#taken];
    if (event === undefined) return this.#later();
    this.#taken += 1;
    this.#sweep();
    return Promise.resolve({ done: false, value: event });
  }

  return(): Promise<Turn> {
    this.#waiting = [];
    this.#taken = 0;
    this.#finish(null);
    return Promise.resolve(DONE);
  }

  onEvent(event: StreamEvent): void {
    const waiter = this.#waiters.shift();
    if (waiter !== undefined) waiter.resolve({ done: false, value: event });
    else this.#waiting.push(event);
    if (ends(event)) this.#finish(null);
    else if (this.#waiting.length - this.#taken >= WAITING_EVENTS_MAX) this.#connection.hold(this.#streamId, true);
  }

  onLink(link: Link): void {
    this.#onLink(link);
    if (link.state !== "refused") return;
    this.#finish(new GatewayError(0, { code: link.code, message: link.reason, where: this.#streamId, hint: "" }));
  }

  onRefused(error: ErrorInfo): void {
    this.#finish(new GatewayError(0, error));
  }

  #later(): Promise<Turn> {
    if (!this.#over) return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
    const problem = this.#problem;
    this.#problem = null;
    return problem === null ? Promise.resolve(DONE) : Promise.reject(problem);
  }

  #sweep(): void {
    if (this.#taken < this.#waiting.length && this.#taken < GO_ON_EVENTS) return;
    this.#waiting = this.#waiting.slice(this.#taken);
    this.#taken = 0;
    if (!this.#over && this.#waiting.length <= GO_ON_EVENTS) this.#connection.hold(this.#streamId, false);
  }

  #finish(problem: unknown): void {
    if (this.#over) return;
    this.#over = true;
    this.#leave();
    this.#ignore();
    this.#onOver();
    const first = this.#waiters.shift();
    if (first !== undefined && problem !== null) first.reject(problem);
    else {
      first?.resolve(DONE);
      this.#problem = problem;
    }
    for (const waiter of this.#waiters.splice(0)) waiter.resolve(DONE);
  }
}
