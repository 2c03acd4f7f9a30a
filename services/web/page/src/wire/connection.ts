/* One WebSocket that follows any number of streams and resumes each where it stood when the socket was lost.
 *
 * Socket, timers and randomness are handed in; `browserPorts` has the real ones. */
import { backoffMs } from "./backoff.ts";
import { PING_FRAME, authenticateFrame, parseFrame, subscribeFrame, unsubscribeFrame } from "./frames.ts";
import type { StreamEvent } from "./frames.ts";
import { Position } from "./position.ts";
import type { ErrorInfo } from "./reading.ts";

/** The state of the socket as a viewer needs to know it. */
export type Link =
  | { readonly state: "connecting" }
  | { readonly state: "live" }
  | { readonly state: "waiting"; readonly retryMs: number; readonly reason: string }
  | { readonly state: "refused"; readonly reason: string };

export interface Follower {
  /** In order, without gaps, each exactly once. */
  onEvent(event: StreamEvent): void;
  onLink(link: Link): void;
  /** The gateway, or the stream itself, does not allow to go on. */
  onRefused(error: ErrorInfo): void;
}

export interface Socket {
  onopen: (() => void) | null;
  onmessage: ((message: { readonly data: unknown }) => void) | null;
  onclose: ((close: { readonly code: number; readonly reason: string }) => void) | null;
  send(text: string): void;
  close(): void;
}

export interface Ports {
  open(url: string): Socket;
  /** Call `action` once after `ms`; the result cancels it. */
  after(ms: number, action: () => void): () => void;
  random(): number;
}

const WATCH_MS = 15_000; // silence for this long is answered with a ping, for twice this long with a new connection
const GAPS_MAX = 3; // in a row, at one seq, before the stream counts as damaged
const WANTS_TOKEN_CODE = 4401; // no token, or one that is not valid any more: another one can help, trying again cannot
const TERMINAL_CODES = { first: 4500, last: 4999 } as const; // closed for good: reconnecting cannot help

interface Follow {
  readonly follower: Follower;
  readonly position: Position;
  gaps: number;
}

export class Connection {
  readonly #url: string;
  readonly #ports: Ports;
  readonly #token: () => string;
  readonly #follows = new Map<string, Follow>();
  #socket: Socket | null = null;
  #link: Link = { state: "connecting" };
  #failures = 0;
  #heard = false;
  #pinged = false;
  #cancelTimer: () => void = () => {};

  constructor(url: string, ports: Ports, token: () => string = () => "") {
    this.#url = url;
    this.#ports = ports;
    this.#token = token;
  }

  /** Follow a stream from its start, replacing an earlier follower of it. The result stops following. */
  follow(streamId: string, follower: Follower): () => void {
    const follow: Follow = { follower, position: new Position(), gaps: 0 };
    const replaced = this.#follows.delete(streamId);
    this.#follows.set(streamId, follow);
    follower.onLink(this.#link);
    if (this.#socket === null) this.retryNow();
    else if (replaced) this.#restart("Starting over");
    else if (this.#link.state === "live") this.#socket.send(subscribeFrame(streamId, 0));
    return () => this.#unfollow(streamId, follow);
  }

  /** Connect at once instead of waiting any longer. Does nothing while connected. */
  retryNow(): void {
    if (this.#socket !== null || this.#follows.size === 0) return;
    this.#cancelTimer();
    this.#connect();
  }

  #unfollow(streamId: string, follow: Follow): void {
    if (this.#follows.get(streamId) !== follow) return;
    this.#follows.delete(streamId);
    if (!follow.position.ended && this.#link.state === "live") this.#socket?.send(unsubscribeFrame(streamId));
    if (this.#follows.size === 0 && this.#socket === null) this.#cancelTimer();
  }

  #connect(): void {
    const socket = this.#ports.open(this.#url);
    this.#socket = socket;
    this.#tell({ state: "connecting" });
    socket.onopen = () => this.#opened(socket);
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    this.#watch();
  }

  #opened(socket: Socket): void {
    const token = this.#token();
    if (token) socket.send(authenticateFrame(token));
    this.#tell({ state: "live" });
    for (const [streamId, { position }] of this.#follows) {
      if (!position.ended) socket.send(subscribeFrame(streamId, position.next));
    }
  }

  #received(data: unknown): void {
    this.#heard = true;
    this.#failures = 0;
    const frame = typeof data === "string" ? parseFrame(data) : null;
    if (frame?.type === "event") this.#event(frame.streamId, frame.event);
    else if (frame?.type === "refusal") this.#refusal(frame.streamId, frame.error);
  }

  #event(streamId: string, event: StreamEvent): void {
    const follow = this.#follows.get(streamId);
    const verdict = follow?.position.take(event);
    if (follow === undefined || verdict === "known") return;
    if (verdict === "gap") return this.#gap(streamId, follow);
    follow.gaps = 0;
    follow.follower.onEvent(event);
  }

  #gap(streamId: string, follow: Follow): void {
    const { next } = follow.position;
    follow.gaps += 1;
    if (follow.gaps < GAPS_MAX) return this.#restart(`Chunk ${next} is missing`);
    this.#unfollow(streamId, follow);
    follow.follower.onRefused({
      code: "gap",
      message: `The gateway left out seq ${next} ${GAPS_MAX} times in a row`,
      where: streamId,
      hint: "Open the stream again; if this stays, look at the gateway's log",
    });
  }

  #refusal(streamId: string, error: ErrorInfo): void {
    for (const [id, { follower }] of this.#follows) {
      if (streamId === "" || streamId === id) follower.onRefused(error);
    }
  }

  /** Drop the socket: a new one with a fresh subscription is the one way to resume, whatever went wrong. */
  #restart(reason: string): void {
    const socket = this.#socket;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.#closed(0, reason);
  }

  #closed(code: number, reason: string): void {
    this.#cancelTimer();
    this.#socket = null;
    if (code === WANTS_TOKEN_CODE || (code >= TERMINAL_CODES.first && code <= TERMINAL_CODES.last)) {
      return this.#tell({ state: "refused", reason: reason || `The gateway closed the connection (${code})` });
    }
    if (![...this.#follows.values()].some(({ position }) => !position.ended)) {
      this.#link = { state: "connecting" };
      return;
    }
    const retryMs = backoffMs(this.#failures, this.#ports.random());
    this.#failures += 1;
    this.#cancelTimer = this.#ports.after(retryMs, () => this.#connect());
    this.#tell({ state: "waiting", retryMs, reason: reason || "The connection was lost" });
  }

  /** Notice a peer that is gone without a word; also bounds the time that opening the socket may take. */
  #watch(): void {
    this.#heard = this.#pinged = false;
    const look = () => {
      if (!this.#heard && this.#pinged) return this.#restart("The gateway has been silent");
      this.#pinged = !this.#heard;
      if (this.#pinged && this.#link.state === "live") this.#socket?.send(PING_FRAME);
      this.#heard = false;
      this.#cancelTimer = this.#ports.after(WATCH_MS, look);
    };
    this.#cancelTimer = this.#ports.after(WATCH_MS, look);
  }

  #tell(link: Link): void {
    this.#link = link;
    for (const { follower } of this.#follows.values()) follower.onLink(link);
  }
}

export const browserPorts: Ports = {
  open: (url) => new WebSocket(url) as Socket,
  after: (ms, action) => {
    const timer = setTimeout(action, ms);
    return () => clearTimeout(timer);
  },
  random: Math.random,
};
