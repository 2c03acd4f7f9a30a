/* The rows of a stream: appended, never re-rendered, and only the newest few hundred are kept. */
import { LitElement, css, html } from "lit";
import { customElement, query, state } from "lit/decorators.js";

import { counted } from "../app/words.ts";
import { controls } from "../styles/shared.ts";
import type { Update } from "../../../client/src/index.ts";
import { faceOf, wholeOf } from "./face.ts";
import type { Token } from "./json-text.ts";
import { RowQueue } from "./row-queue.ts";
import type { Change, Entry } from "./row-queue.ts";

const BOTTOM_PX = 24; // this near to the bottom counts as being there
const REST = 4; // after a change the browser gets this many times as long for everything else: reading the socket, input
const REST_MS_MAX = 1_000;

@customElement("apex-rows")
export class ApexRows extends LitElement {
  @state() private waiting = 0;
  @query(".scroller") private readonly scroller!: HTMLElement;
  @query("ol") private readonly list!: HTMLOListElement;

  private queue = new RowQueue();
  private following = true;
  private scheduled = false;
  private lastTop = 0;
  private readonly chunks = new WeakMap<Element, Update>(); // what a row was made of, for as long as the row lives
  private readonly resized = new ResizeObserver(() => this.following && this.toBottom());

  override firstUpdated(): void {
    this.resized.observe(this.scroller);
    this.resized.observe(this.list); // rows get their true height only when they come near the view
  }

  push(chunk: Update): void {
    this.queue.push({ kind: "chunk", seq: chunk.seq, chunk });
    this.schedule();
  }

  /** Take back the rows from `seq` on, and say so in their place. */
  rewind(seq: number, lost: number): void {
    for (let gone = this.queue.rewind(seq); gone > 0; gone -= 1) this.list.lastElementChild?.remove();
    const text = `Rewound to seq ${seq}: the task runs again from there; ${counted(lost, "chunk")} taken back`;
    this.queue.push({ kind: "notice", seq, text });
    this.schedule();
  }

  clear(): void {
    this.queue = new RowQueue();
    this.following = true;
    this.waiting = 0;
    this.list?.replaceChildren();
  }

  override render() {
    return html`
      <div class="scroller" tabindex="0" role="region" aria-label="Chunks, newest last" @scroll=${this.scrolled}>
        <ol @click=${this.clicked}></ol>
      </div>
      <button class="jump" ?hidden=${this.waiting === 0} @click=${this.jump}>
        ${counted(this.waiting, "newer chunk")} ↓
      </button>
    `;
  }

  private schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    void this.updateComplete.then(() => requestAnimationFrame(this.flush));
  }

  private readonly flush = (): void => {
    const started = performance.now();
    this.apply(this.following ? this.queue.follow() : this.queue.hold());
    this.waiting = this.queue.waiting;
    setTimeout(this.rested, Math.min(REST_MS_MAX, REST * (performance.now() - started)));
  };

  private readonly rested = (): void => {
    this.scheduled = false;
    if (this.queue.waiting !== this.waiting || (this.following && this.waiting > 0)) this.schedule();
  };

  private apply({ removeFirst, append }: Change): void {
    if (removeFirst === this.list.childElementCount) this.list.replaceChildren();
    else for (let gone = removeFirst; gone > 0; gone -= 1) this.list.firstElementChild?.remove();
    this.list.append(...append.map((entry) => this.rowFor(entry)));
    if (this.following) this.toBottom();
  }

  private toBottom(): void {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.lastTop = this.scroller.scrollTop;
  }

  private readonly scrolled = (): void => {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    if (scrollHeight - scrollTop - clientHeight <= BOTTOM_PX) this.resume();
    else if (scrollTop < this.lastTop) this.following = false;
    this.lastTop = scrollTop;
  };

  private resume(): void {
    this.following = true;
    if (this.queue.waiting > 0) this.schedule();
  }

  private readonly jump = (): void => {
    this.resume();
    this.toBottom();
    this.scroller.focus({ preventScroll: true });
  };

  private readonly clicked = (event: Event): void => {
    const button = event.target instanceof Element ? event.target.closest("button") : null;
    if (button === null) return;
    this.toggle(button);
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    if (scrollHeight - scrollTop - clientHeight > BOTTOM_PX) this.following = false;
  };

  private rowFor(entry: Entry): HTMLLIElement {
    if (entry.kind === "notice") return noticeRow(entry.text);
    const row = chunkRow(entry.seq, entry.chunk);
    this.chunks.set(row, entry.chunk);
    return row;
  }

  private toggle(button: Element): void {
    const row = button.closest("li");
    const chunk = row && this.chunks.get(row);
    if (!row || !chunk) return;
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) row.querySelector(".whole")?.remove();
    else this.unfold(row, chunk);
  }

  private unfold(row: HTMLElement, chunk: Update): void {
    row.append(element("pre", "whole", wholeOf(chunk)));
    row.scrollIntoView({ block: "nearest" });
  }

  static override readonly styles = [
    controls,
    css`
      :host {
        display: block;
        position: relative;
        min-height: 0;
      }
      .scroller {
        height: 100%;
        overflow: auto;
        background: var(--surface);
        border: 1px solid var(--line);
        border-radius: 6px;
      }
      .scroller:focus-visible {
        outline-offset: 0;
      }
      li {
        display: grid;
        grid-template-columns: 4.5rem minmax(0, 1fr) 2rem;
        align-items: baseline;
        padding: 0.22rem 0.4rem 0.22rem 0;
        border-bottom: 1px solid var(--line);
        content-visibility: auto;
        contain-intrinsic-height: auto 29px;
      }
      li:last-child {
        border-bottom: 0;
      }
      .seq {
        text-align: right;
        padding-right: 0.9rem;
        color: var(--muted);
        font: 12px/1.6 var(--code-face);
        font-variant-numeric: tabular-nums;
        user-select: none;
      }
      .face,
      .whole {
        unicode-bidi: isolate;
        overflow-wrap: anywhere;
        white-space: pre-wrap;
      }
      .value,
      .whole {
        font: 12.5px/1.6 var(--code-face);
      }
      .value {
        white-space: nowrap;
        overflow: hidden;
        text-overflow: ellipsis;
      }
      .whole {
        grid-column: 2 / -1;
        margin: 0.3rem 0 0.4rem;
        padding: 0.5rem 0.7rem;
        max-height: 24rem;
        overflow: auto;
        background: var(--sunken);
        border-radius: 4px;
      }
      li button {
        justify-self: end;
        border: 0;
        background: none;
        color: var(--muted);
        padding: 0 0.5rem;
        line-height: 1.5;
      }
      li button:hover {
        color: var(--text);
      }
      li button::before {
        content: "+";
        font-family: var(--code-face);
      }
      li button[aria-expanded="true"]::before {
        content: "−";
      }
      li.notice {
        display: block;
        padding: 0.3rem 0.9rem;
        color: var(--warn);
        background: var(--warn-tint);
      }
      .key {
        color: var(--key);
      }
      .string {
        color: var(--string);
      }
      .number {
        color: var(--number);
      }
      .mark {
        color: var(--muted);
      }
      .jump {
        position: absolute;
        right: 1.4rem;
        bottom: 0.9rem;
        background: var(--accent);
        border-color: var(--accent);
        color: var(--accent-text);
      }
      @media (max-width: 640px) {
        li {
          grid-template-columns: 3.2rem minmax(0, 1fr) 2rem;
        }
        .value {
          white-space: pre-wrap;
        }
      }
    `,
  ];
}

function noticeRow(text: string): HTMLLIElement {
  const row = document.createElement("li");
  row.className = "notice";
  row.textContent = text;
  return row;
}

function chunkRow(seq: number, chunk: Update): HTMLLIElement {
  const row = document.createElement("li");
  const face = faceOf(chunk);
  row.dataset["seq"] = String(seq);
  row.append(
    element("span", "seq", [{ kind: "word", text: String(seq) }]),
    element("div", face.prose ? "face" : "face value", face.tokens),
  );
  if (face.expandable) row.append(expander(seq));
  return row;
}

function expander(seq: number): HTMLButtonElement {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-label", `Chunk ${seq} in full`);
  return button;
}

/** Text only: whatever a token contains, it never becomes markup. */
function element(tag: string, className: string, tokens: readonly Token[]): HTMLElement {
  const made = document.createElement(tag);
  made.className = className;
  for (const token of tokens) made.append(pieceOf(token));
  return made;
}

function pieceOf({ kind, text }: Token): Node {
  if (kind === "word") return document.createTextNode(text);
  const piece = document.createElement("span");
  piece.className = kind;
  piece.textContent = text;
  return piece;
}
