/* One WebSocket that follows any number of streams and resumes each where it stood when the socket was lost.
 *
 * Socket, timers and randomness are handed in; `webPorts` has the real ones. */
import { PATIENCE, backoffMs } from "./backoff.ts";
import type { Patience } from "./backoff.ts";
import { reconnectAfter } from "./closing.ts";
import { PING_FRAME, authenticateFrame, parseFrames, streamFrame, subscribeFrame } from "./frames.ts";
import type { Credential, ServerFrame, StreamEvent } from "./frames.ts";
import { Position } from "./position.ts";
import type { Asked } from "./position.ts";
import type { ErrorInfo } from "./reading.ts";

/** The state of the socket as a viewer needs to know it. */
export type Link =
  | { readonly state: "connecting" }
  | { readonly state: "live" }
  | { readonly state: "waiting"; readonly retryMs: number; readonly reason: string }
  | { readonly state: "refused"; readonly code: string; readonly reason: string };

export interface Follower {
  /** In order, without gaps, each exactly once. */
  onEvent(event: StreamEvent): void;
  onLink(link: Link): void;
  /** The gateway, or the stream itself, does not allow to go on. */
  onRefused(error: ErrorInfo): void;
}

export interface Socket {
  onopen: (() => void) | null;
  onerror: (() => void) | null;
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
  /** Milliseconds on a clock that only goes forward. */
  now(): number;
}

/** Asked anew for every socket, and when the one that was shown expires. */
export type CredentialSource = () => Credential | Promise<Credential>;

export interface ConnectionOptions {
  readonly credential?: CredentialSource;
  readonly patience?: Partial<Patience>;
  /** A socket that nobody follows anything over is closed after this long. */
  readonly idleMs?: number;
}

export const STREAMS_MAX = 1_000; // on one socket: the gateway's limit

const OPEN_MS = 10_000; // for opening a socket, handshake included
const WATCH_MS = 15_000; // silence for this long is answered with a ping, for twice this long with a new connection
const GAPS_MAX = 2; // in a row, at one seq, before the stream counts as damaged
const STRANGER_MAX = 2; // sockets in a row that were closed for want of a token
const IDLE_MS = 1_000;
const WANTS_TOKEN_CODE = 4401;
const LOCAL_CODE = 0; // we hung up, and want to go on with another socket

interface Follow {
  readonly follower: Follower;
  readonly position: Position;
  readonly view: object | undefined;
  gaps: number;
  held: boolean;
}

export class Connection {
  readonly #url: string;
  readonly #ports: Ports;
  readonly #credential: CredentialSource;
  readonly #patience: Patience;
  readonly #idleMs: number;
  readonly #follows = new Map<string, Follow>();
  #socket: Socket | null = null;
  #link: Link = { state: "connecting" };
  #shown = ""; // the frame that said who we are
  #said = ""; // what the gateway last complained of, about no stream in particular
  #strangers = 0;
  #failures = 0;
  #offlineSince: number | null = null;
  #open = false;
  #heard = false;
  #pinged = false;
  #cancelTimer: () => void = () => {};

  constructor(url: string, ports: Ports, options: ConnectionOptions = {}) {
    this.#url = url;
    this.#ports = ports;
    this.#credential = options.credential ?? (() => ({}));
    this.#patience = { ...PATIENCE, ...options.patience };
    this.#idleMs = options.idleMs ?? IDLE_MS;
  }

  follows(streamId: string): boolean {
    return this.#follows.has(streamId);
  }

  get full(): boolean {
    return this.#follows.size >= STREAMS_MAX;
  }

  /** Follow a stream as `asked`, replacing an earlier follower of it. The result stops following. */
  follow(streamId: string, follower: Follower, asked: Asked = {}): () => void {
    const { view } = asked;
    const follow: Follow = { follower, position: new Position(asked, view !== undefined), view, gaps: 0, held: false };
    const idle = this.#follows.size === 0;
    if (this.#link.state === "refused") this.#link = { state: "connecting" }; // that was for others
    const replaced = this.#follows.delete(streamId);
    this.#follows.set(streamId, follow);
    follower.onLink(this.#link);
    if (this.#socket === null) this.retryNow();
    else if (replaced) this.#restart("Starting over");
    else if (this.#link.state === "live") this.#socket.send(subscribeFrame(streamId, follow.position.asks, view));
    if (idle && this.#socket !== null) this.#watch();
    return () => this.#unfollow(streamId, follow);
  }

  /** Have nothing more sent of a stream, until it is released: whoever follows it has enough to do. */
  hold(streamId: string, held: boolean): void {
    const follow = this.#follows.get(streamId);
    if (follow === undefined || follow.held === held) return;
    follow.held = held;
    if (this.#link.state === "live") this.#socket?.send(streamFrame(held ? "hold" : "release", streamId));
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
    const live = this.#link.state === "live";
    if (!follow.position.ended && live) this.#socket?.send(streamFrame("unsubscribe", streamId));
    if (this.#follows.size > 0) return;
    this.#cancelTimer();
    if (this.#socket !== null) this.#cancelTimer = this.#ports.after(this.#idleMs, () => this.#hangUp());
  }

  #connect(): void {
    const socket = this.#ports.open(this.#url);
    this.#socket = socket;
    this.#open = false;
    this.#tell({ state: "connecting" });
    socket.onopen = () => this.#opened(socket);
    // Not every WebSocket closes one that could not be opened (Node 22's does not); later there is always a close, with its code.
    socket.onerror = () => this.#open || this.#restart("The connection could not be opened");
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    this.#watch();
  }

  #opened(socket: Socket): void {
    this.#open = true;
    this.#watch();
    this.#asked(
      (credential) => this.#introduce(socket, credential),
      (reason) => this.#socket === socket && this.#restart(reason),
    );
  }

  /** Ask who we are; at once if that is known at once. */
  #asked(then: (credential: Credential) => void, failed: (reason: string) => void): void {
    const told = this.#credential();
    if (told instanceof Promise) told.then(then, (problem: unknown) => failed(`No token: ${String(problem)}`));
    else then(told);
  }

  #introduce(socket: Socket, credential: Credential): void {
    if (this.#socket !== socket) return;
    this.#said = "";
    this.#shown = "";
    this.#authenticate(credential);
    this.#tell({ state: "live" });
    for (const [streamId, { position, view, held }] of this.#follows) {
      if (position.ended) continue;
      socket.send(subscribeFrame(streamId, position.asks, view));
      if (held) socket.send(streamFrame("hold", streamId));
    }
  }

  #authenticate(credential: Credential): void {
    const frame = authenticateFrame(credential);
    if (!(credential.token || credential.ticket) || frame === this.#shown) return;
    this.#shown = frame;
    this.#socket?.send(frame);
  }

  #received(data: unknown): void {
    this.#heard = true;
    if (typeof data !== "string") return;
    const socket = this.#socket;
    for (const frame of parseFrames(data)) {
      if (this.#socket !== socket) return; // one of them was reason enough to begin anew
      this.#take(frame);
    }
  }

  #take(frame: ServerFrame): void {
    if (frame.type === "event") this.#event(frame.streamId, frame.event);
    else if (frame.type === "refusal") this.#refusal(frame.streamId, frame.error);
    else if (frame.type === "pong") this.#works();
    else this.#asked((credential) => this.#authenticate(credential), () => {});
  }

  #event(streamId: string, event: StreamEvent): void {
    const follow = this.#follows.get(streamId);
    const verdict = follow?.position.take(event);
    if (follow === undefined || verdict === "known") return;
    if (verdict === "gap") return this.#gap(streamId, follow, event.seq);
    this.#works();
    follow.gaps = 0;
    follow.follower.onEvent(event);
  }

  #works(): void {
    this.#failures = this.#strangers = 0;
    this.#offlineSince = null;
  }

  #gap(streamId: string, follow: Follow, seq: number): void {
    const { next } = follow.position;
    follow.gaps += 1;
    if (follow.gaps < GAPS_MAX) return this.#restart(`Chunk ${next} is missing`);
    this.#refuse(streamId, follow, {
      code: "data_corruption",
      message: `The gateway went on at seq ${seq} twice instead of ${next}`,
      where: streamId,
      hint: "Open the stream again; if this stays, look at the gateway's log",
    });
  }

  #refusal(streamId: string, error: ErrorInfo): void {
    if (streamId === "") this.#said = error.message; // whether that was the end of it, the close code says
    const follow = this.#follows.get(streamId);
    if (follow === undefined || follow.position.ended) return;
    if (error.code === "unavailable") this.#restart(error.message);
    else this.#refuse(streamId, follow, error);
  }

  #refuse(streamId: string, follow: Follow, error: ErrorInfo): void {
    this.#unfollow(streamId, follow);
    follow.follower.onRefused(error);
  }

  /** Drop the socket: a new one with fresh subscriptions is the one way to resume, whatever went wrong. */
  #restart(reason: string): void {
    this.#hangUp();
    this.#closed(LOCAL_CODE, reason);
  }

  #hangUp(): void {
    const socket = this.#socket;
    if (socket === null) return;
    this.#cancelTimer();
    this.#socket = null;
    this.#link = { state: "connecting" };
    socket.onopen = socket.onerror = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #closed(code: number, reason: string): void {
    this.#cancelTimer();
    this.#socket = null;
    const why = reason || this.#said;
    if (code === WANTS_TOKEN_CODE) return this.#renew(why || "The gateway wants a token");
    const verdict = reconnectAfter(code);
    if (verdict === "no") return this.#giveUp("bad_request", why || `The gateway closed the connection (${code})`);
    this.#again(verdict === "later" ? this.#patience.laterMs : 0, why || "The connection was lost");
  }

  /** The gateway does not know us: with another token it may. */
  #renew(reason: string): void {
    const refuse = () => this.#giveUp("unauthenticated", reason);
    this.#asked((credential) => {
      if (this.#socket !== null) return; // somebody has tried again meanwhile
      this.#strangers += 1;
      const other = authenticateFrame(credential) !== this.#shown && Boolean(credential.token || credential.ticket);
      if (other && this.#strangers < STRANGER_MAX) this.#again(0, reason);
      else refuse();
    }, refuse);
  }

  #again(leastMs: number, reason: string): void {
    if (![...this.#follows.values()].some(({ position }) => !position.ended)) {
      this.#link = { state: "connecting" };
      return;
    }
    const now = this.#ports.now();
    this.#offlineSince ??= now;
    const leftMs = this.#offlineSince + this.#patience.offlineMaxMs - now;
    if (leftMs <= 0) return this.#giveUp("unavailable", `No connection for ${this.#patience.offlineMaxMs} ms (${reason})`);
    const retryMs = Math.min(leastMs + backoffMs(this.#failures, this.#ports.random(), this.#patience), leftMs);
    this.#failures += 1;
    this.#cancelTimer = this.#ports.after(retryMs, () => this.#connect());
    this.#tell({ state: "waiting", retryMs, reason });
  }

  #giveUp(code: string, reason: string): void {
    this.#works();
    this.#tell({ state: "refused", code, reason });
  }

  /** Notice a peer that is gone without a word, and one that never answers. */
  #watch(): void {
    this.#cancelTimer();
    if (!this.#open) {
      this.#cancelTimer = this.#ports.after(OPEN_MS, () => this.#restart("The gateway did not answer"));
      return;
    }
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
    for (const { follower } of [...this.#follows.values()]) follower.onLink(link);
  }
}

/** What browsers have, and Node from version 22 on. */
export const webPorts: Ports = {
  open: (url) => new WebSocket(url) as Socket,
  after: (ms, action) => {
    const timer = setTimeout(action, ms);
    return () => clearTimeout(timer);
  },
  random: Math.random,
  now: () => performance.now(),
};
