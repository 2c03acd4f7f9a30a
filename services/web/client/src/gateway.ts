/* The gateway's HTTP interface. Answers are read defensively into the few fields that a page needs. */
import { retryAfterMs } from "./backoff.ts";
import { errorOf, fieldsOf, listOf, numberOf, own, textOf } from "./reading.ts";
import type { ErrorInfo, Fields } from "./reading.ts";

export interface Action {
  readonly plugin: string;
  readonly action: string;
  readonly summary: string;
  readonly paramsSchema: Fields;
}

export interface Catalogue {
  readonly actions: readonly Action[];
  /** "name: why" */
  readonly brokenPlugins: readonly string[];
  readonly runners: number;
  /** What a task may ask for as its tier, the most urgent first. */
  readonly tiers: readonly string[];
  readonly defaultTier: string;
}

export interface Task {
  readonly id: string;
  readonly streamId: string;
  readonly status: string;
  readonly plugin: string;
  readonly action: string;
  readonly tier: string;
  readonly attempt: number;
  /** Microseconds since the epoch; 0 where unknown. */
  readonly submittedUs: number;
  readonly changedUs: number;
  readonly reason: string;
  readonly error: ErrorInfo | null;
}

export interface Submission {
  readonly plugin: string;
  readonly action: string;
  readonly params: Fields;
  /** One of the catalogue's; else the default one. */
  readonly tier?: string;
  /** Chosen by whoever submits, so that a submission whose answer was lost can be made again. */
  readonly task_id?: string;
  readonly options?: object;
  readonly scheduling?: object;
  readonly idempotency_key?: string;
}

/** The gateway refused (`status` says how), or could not be reached (`status` 0). `info.code` says what it is about. */
export class GatewayError extends Error {
  readonly status: number;
  readonly info: ErrorInfo;

  constructor(status: number, info: ErrorInfo) {
    super(info.message);
    this.status = status;
    this.info = info;
  }
}

const ANSWER_MS = 15_000;
const RETRY_MS_MAX = 30_000; // of all pauses that a request is asked to make
const RETRY_SPREAD = 0.25; // of a pause, at random, so that not all come back at once

export class Gateway {
  readonly #base: URL;
  readonly #token: () => string | Promise<string>;
  readonly #retryMsMax: number;

  /** `base` is the address of the page itself; the interface is beside it. `token` is shown if there is one. A request
   * that is refused with `Retry-After` was not followed: it is made again then, for `retryMsMax` in all. */
  constructor(base: string, token: () => string | Promise<string> = () => "", retryMsMax = RETRY_MS_MAX) {
    this.#base = new URL(".", base);
    this.#token = token;
    this.#retryMsMax = retryMsMax;
  }

  get streamUrl(): string {
    const url = new URL("stream", this.#base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return url.href;
  }

  async catalogue(): Promise<Catalogue> {
    const fields = await this.#ask("GET", "actions");
    return {
      actions: listOf(own(fields, "actions")).map(actionOf),
      brokenPlugins: listOf(own(fields, "broken_plugins")).map(textOf).filter(Boolean),
      runners: numberOf(own(fields, "runners")) ?? 0,
      tiers: listOf(own(fields, "tiers")).map(textOf).filter(Boolean),
      defaultTier: textOf(own(fields, "default_tier")),
    };
  }

  async tasks(limit: number): Promise<readonly Task[]> {
    const fields = await this.#ask("GET", `tasks?limit=${limit}`);
    return listOf(own(fields, "tasks")).map(taskOf);
  }

  async task(id: string): Promise<Task> {
    return taskOf(await this.#ask("GET", `tasks/${encodeURIComponent(id)}`));
  }

  async submit(submission: Submission): Promise<Task> {
    return taskOf(await this.#ask("POST", "tasks", submission));
  }

  async cancel(id: string): Promise<Task> {
    return taskOf(await this.#ask("DELETE", `tasks/${encodeURIComponent(id)}`));
  }

  /** Hold a running task at its next yield, or let it go on. */
  async steer(id: string, how: "pause" | "resume"): Promise<Task> {
    return taskOf(await this.#ask("POST", `tasks/${encodeURIComponent(id)}/${how}`));
  }

  /** To be shown once in place of a token, by a page of the same origin. */
  async ticket(): Promise<string> {
    return textOf(own(await this.#ask("POST", "tickets"), "ticket"));
  }

  async #ask(method: string, path: string, body?: object): Promise<Fields> {
    let answer = await this.#fetch(method, path, body);
    for (let leftMs = this.#retryMsMax; !answer.ok; answer = await this.#fetch(method, path, body)) {
      const asked = retryAfterMs(answer.headers.get("retry-after"), Date.now());
      if (asked === null || leftMs <= 0 || asked > leftMs) break;
      const pause = asked * (1 + Math.random() * RETRY_SPREAD);
      leftMs -= Math.max(pause, 1);
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
    const fields = fieldsOf(await answer.json().catch(() => null));
    if (answer.ok) return fields;
    const told = own(fields, "error");
    throw new GatewayError(answer.status, errorOf(told ?? { message: `The gateway answered ${answer.status}` }));
  }

  async #fetch(method: string, path: string, body?: object): Promise<Response> {
    const headers: Record<string, string> = {};
    const request: RequestInit = { method, headers, cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) };
    const token = await this.#token();
    if (token) headers.authorization = `Bearer ${token}`;
    if (body !== undefined) {
      headers["content-type"] = "application/json";
      request.body = JSON.stringify(body);
    }
    try {
      return await fetch(new URL(path, this.#base), request);
    } catch {
      throw new GatewayError(0, {
        code: "unreachable",
        message: "The gateway does not answer",
        where: "",
        hint: "Check that it is running (`apexstream up`) and that this machine can reach it",
      });
    }
  }
}

function actionOf(value: unknown): Action {
  const fields = fieldsOf(value);
  return {
    plugin: textOf(own(fields, "plugin")),
    action: textOf(own(fields, "action")),
    summary: textOf(own(fields, "summary")),
    paramsSchema: fieldsOf(own(fields, "params_schema")),
  };
}

function taskOf(value: unknown): Task {
  const fields = fieldsOf(value);
  const id = textOf(own(fields, "task_id"));
  const error = own(fields, "error");
  return {
    id,
    streamId: textOf(own(fields, "stream_id")) || id,
    status: textOf(own(fields, "status")),
    plugin: textOf(own(fields, "plugin")),
    action: textOf(own(fields, "action")),
    tier: textOf(own(fields, "tier")),
    attempt: numberOf(own(fields, "attempt")) ?? 0,
    submittedUs: numberOf(own(fields, "submitted_us")) ?? 0,
    changedUs: numberOf(own(fields, "changed_us")) ?? 0,
    reason: textOf(own(fields, "reason")),
    error: typeof error === "object" && error !== null ? errorOf(error) : null,
  };
}
