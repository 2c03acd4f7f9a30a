/* How long to wait before the next try, and when to give up. */

/** All in milliseconds. `laterMs` is added where the gateway has asked for a pause. */
export interface Patience {
  readonly leastMs: number;
  readonly firstMs: number;
  readonly longestMs: number;
  readonly laterMs: number;
  readonly offlineMaxMs: number;
}

export const PATIENCE: Patience = {
  leastMs: 100,
  firstMs: 500,
  longestMs: 15_000,
  laterMs: 1_000,
  offlineMaxMs: Number.POSITIVE_INFINITY,
};

/** Full jitter over a doubling window: many pages that lost one gateway do not come back at one moment.
 *
 * `failures` counts from 0; `random` is in [0, 1). Milliseconds. */
export function backoffMs(failures: number, random: number, patience: Patience = PATIENCE): number {
  const { leastMs, firstMs, longestMs } = patience;
  const window = Math.min(longestMs, firstMs * 2 ** Math.min(failures, 16));
  return Math.round(leastMs + random * Math.max(0, window - leastMs));
}

/** What a `Retry-After` header asks for, in milliseconds; null without one that can be read. */
export function retryAfterMs(header: string | null, nowMs: number): number | null {
  if (header === null || header.trim() === "") return null;
  const seconds = Number(header);
  const ms = Number.isFinite(seconds) ? seconds * 1_000 : Date.parse(header) - nowMs;
  return Number.isFinite(ms) ? Math.max(0, ms) : null;
}
