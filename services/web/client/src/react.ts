/* A stream in a React component. React's own functions are handed in, so the client depends on nothing. */
import type { ApexStream } from "./client.ts";
import { ends } from "./frames.ts";
import type { End, Progress, Update } from "./frames.ts";
import type { Asked } from "./position.ts";

/** What a component shows. `problem` is what ended the following, if the stream did not end. */
export interface Followed {
  readonly updates: readonly Update[];
  readonly progress: Progress | null;
  readonly end: End | null;
  readonly problem: unknown;
}

/** Of `react`, from version 18 on. */
export interface ReactFunctions {
  useMemo<T>(make: () => T, of: readonly unknown[]): T;
  useSyncExternalStore<T>(subscribe: (changed: () => void) => () => void, now: () => T, onServer?: () => T): T;
}

const FRAME_MS = 16; // what comes meanwhile is shown together

/** `const useStream = streamHook(React)`; then `useStream(client, streamId)` in a component. `asked` counts once for a stream. */
export function streamHook({ useMemo, useSyncExternalStore }: ReactFunctions) {
  return (client: Pick<ApexStream, "follow">, streamId: string, asked: Asked = {}): Followed => {
    const { subscribe, now } = useMemo(() => storeOf(client, streamId, asked), [client, streamId]);
    return useSyncExternalStore(subscribe, now, now);
  };
}

function storeOf(client: Pick<ApexStream, "follow">, streamId: string, asked: Asked) {
  let next: Followed & { updates: Update[] } = { updates: [], progress: null, end: null, problem: null };
  let shown: Followed = { ...next, updates: [] };
  let cursor = "";
  async function follow(signal: AbortSignal, came: () => void): Promise<void> {
    for await (const event of client.follow(streamId, { ...asked, ...(cursor && { cursor }), signal })) {
      if (signal.aborted) return;
      cursor = event.cursor;
      if (event.kind === "update") next.updates.push(event);
      else if (event.kind === "progress") next = { ...next, progress: event };
      else if (ends(event)) next = { ...next, end: event };
      else next = { ...next, updates: next.updates.filter(({ seq }) => seq < event.seq) };
      came();
    }
  }
  const show = () => void (shown = { ...next, updates: [...next.updates] });
  const subscribe = (changed: () => void) => {
    const leaving = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const came = () => void (timer ??= setTimeout(() => ((timer = undefined), show(), changed()), FRAME_MS));
    const failed = (problem: unknown) => leaving.signal.aborted || ((next = { ...next, problem }), came());
    next = { ...next, problem: null };
    if (next.end === null) follow(leaving.signal, came).catch(failed);
    return () => (leaving.abort(), clearTimeout(timer), show());
  };
  return { subscribe, now: () => shown };
}
