/* How long to wait before the next try. */

const FIRST_MS = 500;
const LONGEST_MS = 15_000;
const LEAST_MS = 100;

/** Full jitter over a doubling window: many pages that lost one gateway do not come back at one moment.
 *
 * `failures` counts from 0; `random` is in [0, 1). Milliseconds. */
export function backoffMs(failures: number, random: number): number {
  const window = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(failures, 16));
  return Math.round(LEAST_MS + random * (window - LEAST_MS));
}
