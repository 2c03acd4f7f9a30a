/* One stream as it grows: its task, its progress, its rows, its end. */
import { LitElement, html, nothing } from "lit";
import type { PropertyValues, TemplateResult } from "lit";
import { customElement, property, query, state } from "lit/decorators.js";

import { infoOf, refusal } from "../app/refusal.ts";
import { Repeater } from "../app/repeater.ts";
import { actionHash } from "../app/routes.ts";
import { clock, counted, isFinal, sentence, span, stageOf } from "../app/words.ts";
import type { Stage } from "../app/words.ts";
import { controls, notes } from "../styles/shared.ts";
import { stageMark, stageStyles } from "../styles/stage.ts";
import type { Connection, ErrorInfo, Follower, Gateway, Link, Progress, StreamEvent, Task } from "../../../client/src/index.ts";
import { StreamRecord } from "./record.ts";
import { ROWS_MAX } from "./row-queue.ts";
import "./rows.ts";
import type { ApexRows } from "./rows.ts";
import { emptyWords, receiptWords, stageAt } from "./saying.ts";
import { streamViewStyles } from "./stream-view.styles.ts";

const ASK_MS = 1_000; // about the task, until it is final
const ASK_LATER_MS = 5_000; // while there is no answer to expect
const ASKS_AFTER_END_MAX = 10; // the task's state follows the stream's end a little later

/** Tells of a new stage with the event `apex-stage`, whose detail is a title for the stream. */
@customElement("apex-stream")
export class ApexStream extends LitElement {
  @property({ attribute: false }) gateway!: Gateway;
  @property({ attribute: false }) connection!: Connection;
  @property() streamId = "";
  /** How many runners are connected; null while unknown. */
  @property({ attribute: false }) runners: number | null = null;
  @property({ reflect: true }) stage: Stage = "waiting";
  /** True once the stream's last frame is here. */
  @property({ type: Boolean, reflect: true }) ended = false;

  @state() private task: Task | null = null;
  @state() private missing = false;
  @state() private link: Link = { state: "connecting" };
  @state() private problem: ErrorInfo | null = null;
  @query("apex-rows") private readonly rows!: ApexRows;

  private record = new StreamRecord();
  private leave: () => void = () => {};
  private asksAfterEnd = 0;
  private told = "";
  private updating = false;
  private readonly asking = new Repeater(() => this.ask());

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.leave();
    this.asking.stop();
  }

  override willUpdate(changed: PropertyValues): void {
    if (changed.has("streamId")) this.forget();
    this.ended = this.record.end !== null;
    this.stage = stageAt(this.record, this.task, this.missing);
  }

  override updated(changed: PropertyValues): void {
    if (changed.has("streamId")) this.open();
    if (changed.has("stage") || this.told !== this.name) this.tell();
  }

  private tell(): void {
    this.told = this.name;
    this.dispatchEvent(new CustomEvent("apex-stage", { detail: this.name }));
  }

  private get name(): string {
    return this.task ? `${this.task.plugin} · ${this.task.action}` : `Stream ${this.streamId}`;
  }

  private forget(): void {
    this.leave();
    this.asking.stop();
    this.record = new StreamRecord();
    this.task = null;
    this.missing = false;
    this.problem = null;
    this.asksAfterEnd = 0;
  }

  private open(): void {
    this.rows.clear();
    const follower: Follower = {
      onEvent: (event) => this.receive(event),
      onLink: (link) => (this.link = link),
      onRefused: (error) => (this.problem = error),
    };
    this.leave = this.connection.follow(this.streamId, follower);
    this.asking.now();
  }

  private receive(event: StreamEvent): void {
    const lost = this.record.apply(event);
    if (event.kind === "update") this.rows.push(event);
    else if (event.kind === "rewind") this.rows.rewind(event.seq, lost);
    if (this.record.end !== null) this.requestUpdate();
    else this.updateSoon();
  }

  /** Once for all frames that arrive before the next painting; one update for each would cost more than all the rest. */
  private updateSoon(): void {
    if (this.updating) return;
    this.updating = true;
    requestAnimationFrame(() => {
      this.updating = false;
      this.requestUpdate();
    });
  }

  private async ask(): Promise<number> {
    this.asksAfterEnd += this.ended ? 1 : 0;
    const waitMs = await this.askOnce(this.streamId);
    const over = this.task !== null && isFinal(stageOf(this.task.status));
    return over || this.asksAfterEnd > ASKS_AFTER_END_MAX ? 0 : waitMs;
  }

  private async askOnce(streamId: string): Promise<number> {
    try {
      const task = await this.gateway.task(streamId);
      if (streamId === this.streamId) this.task = task;
      this.missing = false;
      return ASK_MS;
    } catch (problem) {
      this.missing = infoOf(problem).code === "unknown_task" && this.task === null;
      return ASK_LATER_MS;
    }
  }

  private readonly cancel = async (): Promise<void> => {
    this.problem = null;
    try {
      this.task = await this.gateway.cancel(this.streamId);
    } catch (problem) {
      this.problem = infoOf(problem);
    }
  };

  override render() {
    return html`
      <header>
        <div class="title">
          <h2 tabindex="-1">${this.name}</h2>
          <span role="status">
            ${stageMark(this.stage)}
            ${this.ended ? html`<span class="hidden-text">, ${this.amount()}</span>` : nothing}
          </span>
          <span class="do">${this.command()}</span>
        </div>
        ${this.facts()}
      </header>
      ${this.record.progress ? this.bar(this.record.progress) : nothing} ${this.ending()}
      ${this.problem ? refusal(this.problem) : nothing} ${this.linkNote()}
      <p class="bar muted">
        <span>${this.amount()}</span>
        ${this.record.chunks > ROWS_MAX ? html`<span>the newest ${ROWS_MAX} are kept here</span>` : nothing}
        ${this.link.state === "live" && !this.ended ? html`<span class="live">live</span>` : nothing}
      </p>
      <div class="rows">
        <apex-rows></apex-rows>
        ${this.record.chunks === 0 ? html`<p class="empty muted">${emptyWords(this.stage, this.runners)}</p>` : nothing}
      </div>
    `;
  }

  private amount(): string {
    return counted(this.record.chunks, "chunk");
  }

  private command() {
    if (this.stage === "unknown" || this.stage === "loading") return nothing;
    if (isFinal(this.stage)) {
      return this.task ? html`<a href=${actionHash(this.task.plugin, this.task.action)}>Run again…</a>` : nothing;
    }
    const asked = this.stage === "cancelling";
    return html`<button ?disabled=${asked} @click=${this.cancel}>${asked ? "Cancelling…" : "Cancel task"}</button>`;
  }

  private facts() {
    const facts = [["Stream", this.streamId], ...(this.task ? factsOf(this.task) : [])];
    return html`<dl>${facts.map(([what, is]) => html`<div><dt>${what}</dt><dd>${is}</dd></div>`)}</dl>`;
  }

  private bar({ percentage, message, status }: Progress) {
    const value = this.record.end?.kind === "complete" ? 100 : percentage;
    const still = this.ended || status === message ? "" : status; // "running" would be wrong after the end
    const words = [value === null ? "" : `${Math.round(value)} %`, message, still];
    return html`<div class="progress">
      ${value === null ? nothing : html`<progress aria-label="Progress" max="100" .value=${value}></progress>`}
      <span class="muted">${words.filter(Boolean).join(" · ")}</span>
    </div>`;
  }

  private ending() {
    const { end } = this.record;
    if (end?.kind === "error") return refusal(end.error, "The action failed.");
    if (end?.kind === "cancelled") return note(html`<strong>Cancelled.</strong> ${receiptWords(end.receipt)}`);
    if (end !== null || this.task === null || !isFinal(this.stage)) return nothing;
    if (this.task.error) return refusal(this.task.error, "The task failed.");
    return this.task.reason ? note(html`${sentence(this.task.reason)}`) : nothing;
  }

  private linkNote() {
    if (this.ended || this.link.state === "live" || this.link.state === "connecting") return nothing;
    const { state, reason } = this.link;
    const when = state !== "waiting" || this.link.retryMs < 1_000 ? "now" : `in ${span(this.link.retryMs)}`;
    const next = state === "waiting" ? `Trying again ${when}; nothing is lost or shown twice.` : "";
    return html`<div class="note warn" role="alert">
      <p><strong>Not connected.</strong> ${sentence(reason)} ${next}
        <button class="quiet" @click=${() => this.connection.retryNow()}>Connect now</button></p>
    </div>`;
  }

  static override readonly styles = [controls, notes, stageStyles, streamViewStyles];
}

function factsOf(task: Task): readonly string[][] {
  const tookMs = (task.changedUs - task.submittedUs) / 1_000;
  return [
    ["Tier", task.tier],
    ...(task.attempt > 1 ? [["Attempt", String(task.attempt)]] : []),
    ...(task.submittedUs > 0 ? [["Submitted", clock(task.submittedUs)]] : []),
    ...(isFinal(stageOf(task.status)) ? [["Took", span(tookMs)]] : []),
  ];
}

function note(content: TemplateResult) {
  return html`<div class="note"><p>${content}</p></div>`;
}
