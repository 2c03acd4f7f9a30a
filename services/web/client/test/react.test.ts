import assert from "node:assert/strict";
import { test } from "node:test";

import { streamHook } from "../src/index.ts";
import type { Followed, StreamEvent } from "../src/index.ts";

/** Lets everybody go on who waits. */
class Bell {
  #waiting: (() => void)[] = [];

  wait(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  ring(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

/** A gateway's side of `follow`: what is pushed comes, from the cursor that was asked for on. */
class Streams {
  readonly asked: object[] = [];
  readonly #events: StreamEvent[] = [];
  readonly #more = new Bell();
  problem: Error | null = null;

  push(...events: object[]): void {
    this.#events.push(...(events as StreamEvent[]).map((event, at) => ({ ...event, cursor: `${this.#events.length + at + 1}` })));
    this.#more.ring();
  }

  fail(problem: Error): void {
    this.problem = problem;
    this.push();
  }

  async *follow(streamId: string, { signal, ...asked }: { signal?: AbortSignal; cursor?: string } = {}) {
    this.asked.push({ streamId, ...asked });
    for (let at = Number(asked.cursor ?? 0); !signal?.aborted; ) {
      const event = this.#events[at];
      if (event !== undefined) {
        at += 1;
        yield event;
        if (event.kind === "complete") return;
      } else if (this.problem !== null) throw this.problem;
      else await this.#more.wait();
    }
  }
}

/** A component that calls the hook alone, as React calls it: memoised, subscribed once shown, rendered again on change. */
class Component {
  readonly #hook: (client: Streams, streamId: string) => Followed;
  #memo: { of: readonly unknown[]; made: unknown } | null = null;
  #subscribe: (changed: () => void) => () => void = () => () => {};
  readonly #changed = new Bell();
  readonly streams: Streams;

  constructor(streams: Streams) {
    this.streams = streams;
    this.#hook = streamHook({
      useMemo: <T>(make: () => T, of: readonly unknown[]) => {
        if (!this.#memo?.of.every((each, at) => each === of[at])) this.#memo = { of, made: make() };
        return this.#memo?.made as T;
      },
      useSyncExternalStore: (subscribe, now) => {
        this.#subscribe = subscribe;
        assert.equal(now(), now());
        return now();
      },
    });
  }

  render(streamId = "s"): Followed {
    return this.#hook(this.streams, streamId);
  }

  mount(): () => void {
    this.render();
    return this.#subscribe(() => this.#changed.ring());
  }

  async until(holds: (shown: Followed) => boolean): Promise<Followed> {
    while (!holds(this.render())) await this.#changed.wait();
    return this.render();
  }
}

function update(seq: number) {
  return { kind: "update", seq, data: seq };
}

const seqs = ({ updates }: Followed) => updates.map(({ seq }) => seq);

test("a component shows what came, without what was taken back, and the end", async () => {
  const component = new Component(new Streams());
  const leave = component.mount();
  assert.deepEqual(seqs(component.render()), []);

  component.streams.push(update(0), update(1), update(2), { kind: "progress", seq: 3, percentage: 50 });
  const before = await component.until(({ progress }) => progress !== null);
  component.streams.push({ kind: "rewind", seq: 1 }, update(1), { kind: "complete", seq: 2 });
  const after = await component.until(({ end }) => end !== null);

  assert.deepEqual(seqs(before), [0, 1, 2]);
  assert.deepEqual(seqs(after), [0, 1]);
  leave();
});

test("a component that is mounted again goes on where it was", async () => {
  const component = new Component(new Streams());
  const leave = component.mount();
  component.streams.push(update(0), update(1));
  await component.until(({ updates }) => updates.length === 2);
  leave();
  component.streams.push(update(2));

  const leaveAgain = component.mount();
  const shown = await component.until(({ updates }) => updates.length === 3);

  assert.deepEqual(seqs(shown), [0, 1, 2]);
  assert.deepEqual(component.streams.asked, [{ streamId: "s" }, { streamId: "s", cursor: "2" }]);
  leaveAgain();
});

test("another stream begins anew, and one that has ended is not asked for again", async () => {
  const component = new Component(new Streams());
  const leave = component.mount();
  component.streams.push(update(0), { kind: "complete", seq: 1 });
  await component.until(({ end }) => end !== null);
  leave();

  component.mount()();

  assert.equal(component.streams.asked.length, 1);
  assert.deepEqual(seqs(component.render("other")), []);
});

test("a component is told why it is shown nothing more", async () => {
  const component = new Component(new Streams());
  const leave = component.mount();
  const refused = new Error("forbidden");

  component.streams.fail(refused);

  assert.equal((await component.until(({ problem }) => problem !== null)).problem, refused);
  leave();
});
