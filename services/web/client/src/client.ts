/* The client: submit tasks, follow their streams through any disconnect, cancel them. */
import type { Patience } from "./backoff.ts";
import { Connection, webPorts } from "./connection.ts";
import type { Link, Ports } from "./connection.ts";
import type { Credential, StreamEvent } from "./frames.ts";
import { Gateway } from "./gateway.ts";
import type { Catalogue, Submission, Task } from "./gateway.ts";
import { Reader } from "./reader.ts";
import type { Asked } from "./position.ts";

export interface Options {
  /** Proves who asks; a function is asked for it every time, so that it can be renewed. */
  readonly token?: string | (() => string | Promise<string>);
  /** Gives a ticket for each new socket, where this page must not hold a token. HTTP requests then show none. */
  readonly ticket?: () => Promise<string>;
  /** How long to wait before connecting again, and for how long to try. */
  readonly patience?: Partial<Patience>;
  readonly ports?: Ports;
}

export interface SubmitOptions {
  /** One of `actions()`' tiers; else the default one. */
  readonly tier?: string;
  /** Else the client chooses one. The same id again is the same task. */
  readonly taskId?: string;
  /** Submissions with one key are one task. */
  readonly idempotencyKey?: string;
  readonly options?: object;
  readonly scheduling?: object;
}

export type FollowOptions = Asked & {
  readonly signal?: AbortSignal;
  /** Told whenever the socket below comes or goes. */
  readonly onLink?: (link: Link) => void;
};

const OFFLINE_MS_MAX = 60_000;
const BASE32 = "0123456789abcdefghjkmnpqrstvwxyz";

export class ApexStream {
  readonly #gateway: Gateway;
  readonly #open: () => Connection;
  readonly #connections: Connection[] = [];
  readonly #readers = new Set<Reader>();

  /** `url` is the gateway's, `https://host[:port][/path]`; in a page it may be left out if the gateway serves the page. */
  constructor(url: string = globalThis.location?.href ?? "", options: Options = {}) {
    const { token = "" } = options;
    const tokenOf = typeof token === "function" ? token : () => token;
    const base = /\/[^/]+\.html?$|\/$/.test(url.replace(/[?#].*$/, "")) ? url : `${url.replace(/[?#].*$/, "")}/`;
    this.#gateway = new Gateway(base, tokenOf);
    const patience = { offlineMaxMs: OFFLINE_MS_MAX, ...options.patience };
    const credential = () => credentialOf(options.ticket, tokenOf);
    this.#open = () => new Connection(this.#gateway.streamUrl, options.ports ?? webPorts, { credential, patience });
  }

  /** What can be run now. */
  actions(): Promise<Catalogue> {
    return this.#gateway.catalogue();
  }

  /** Ask for one run of an action; the task is durable once this resolves. Its stream can be followed at once. */
  submit(plugin: string, action: string, params: Record<string, unknown> = {}, how: SubmitOptions = {}): Promise<Task> {
    const { tier, idempotencyKey, options, scheduling } = how;
    const submission: Submission = {
      plugin,
      action,
      params,
      ...(tier !== undefined && { tier }),
      ...(idempotencyKey === undefined ? { task_id: how.taskId ?? newId() } : { idempotency_key: idempotencyKey }),
      ...(options && { options }),
      ...(scheduling && { scheduling }),
    };
    return this.#gateway.submit(submission);
  }

  task(taskId: string): Promise<Task> {
    return this.#gateway.task(taskId);
  }

  /** The newest tasks, newest first. */
  tasks(limit = 50): Promise<readonly Task[]> {
    return this.#gateway.tasks(limit);
  }

  /** Ask for a task's end. Its stream ends with the receipt. Leaving a stream never cancels anything. */
  cancel(taskId: string): Promise<Task> {
    return this.#gateway.cancel(taskId);
  }

  pause(taskId: string): Promise<Task> {
    return this.#gateway.steer(taskId, "pause");
  }

  resume(taskId: string): Promise<Task> {
    return this.#gateway.steer(taskId, "resume");
  }

  /** A one-time ticket for pages of the same origin, from whoever holds the token. */
  ticket(): Promise<string> {
    return this.#gateway.ticket();
  }

  /** Every event of a stream from its start (or `cursor`, `fromSeq`, …) to its end: in order, none twice, none left out.
   *
   * With a `view` it gets what that shows: events keep their seqs, and a cursor is of the view.
   *
   * A lost socket is replaced, with jittered back-off, at the cursor of the last event. A `rewind` says that everything
   * from its seq on never happened. Throws a `GatewayError` when the stream is refused, `unavailable` after
   * `patience.offlineMaxMs` without a connection. All streams of a client share sockets. */
  follow(streamId: string, options: FollowOptions = {}): AsyncIterableIterator<StreamEvent> {
    let connection = this.#connections.find((each) => !each.full && !each.follows(streamId));
    if (connection === undefined) {
      connection = this.#open();
      this.#connections.push(connection);
    }
    const reader: Reader = new Reader(connection, streamId, options, {
      ...(options.signal && { signal: options.signal }),
      ...(options.onLink && { onLink: options.onLink }),
      onOver: () => this.#readers.delete(reader),
    });
    this.#readers.add(reader);
    return reader;
  }

  /** End all following. Tasks go on. */
  close(): void {
    for (const reader of [...this.#readers]) void reader.return();
  }
}

function credentialOf(
  ticket: (() => Promise<string>) | undefined,
  token: () => string | Promise<string>,
): Credential | Promise<Credential> {
  if (ticket !== undefined) return ticket().then((given) => ({ ticket: given }));
  const given = token();
  return typeof given === "string" ? { token: given } : given.then((later) => ({ token: later }));
}

/** 26 characters that sort by time: 48 bits of milliseconds and 80 random ones, as every id of the platform. */
export function newId(nowMs: number = Date.now()): string {
  let number = BigInt(nowMs);
  for (const byte of crypto.getRandomValues(new Uint8Array(10))) number = (number << 8n) | BigInt(byte);
  let id = "";
  for (let at = 0; at < 26; at += 1, number >>= 5n) id = BASE32.charAt(Number(number & 31n)) + id;
  return id;
}
