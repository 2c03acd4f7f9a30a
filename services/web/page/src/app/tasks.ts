/* The newest tasks, each a way back to its stream. */
import { LitElement, css, html, nothing } from "lit";
import { customElement, property } from "lit/decorators.js";

import { controls } from "../styles/shared.ts";
import { stageMark, stageStyles } from "../styles/stage.ts";
import type { Task } from "../../../client/src/index.ts";
import { streamHash } from "./routes.ts";
import { ago, clock, stageOf } from "./words.ts";

@customElement("apex-tasks")
export class ApexTasks extends LitElement {
  @property({ attribute: false }) tasks: readonly Task[] | null = null;
  @property({ type: Number }) nowMs = 0;
  /** The address of what is open now. */
  @property() current = "";

  override render() {
    if (this.tasks === null) return html`<p class="muted">Loading…</p>`;
    if (this.tasks.length === 0) return html`<p class="muted">None yet. Choose an action above and submit it.</p>`;
    return html`<ul>
      ${this.tasks.map((task) => this.item(task))}
    </ul>`;
  }

  private item(task: Task) {
    const hash = streamHash(task.streamId);
    return html`<li>
      <a href=${hash} title=${task.id} aria-current=${hash === this.current ? "page" : nothing}>
        <span class="name">${task.plugin} · ${task.action}</span>
        ${stageMark(stageOf(task.status))}
        <time class="muted" title=${clock(task.submittedUs)}>${ago(task.submittedUs, this.nowMs)}</time>
      </a>
    </li>`;
  }

  static override readonly styles = [
    controls,
    stageStyles,
    css`
      p {
        padding: 0 0.6rem;
      }
      a {
        display: grid;
        grid-template-columns: minmax(0, 1fr) auto;
        padding: 0.3rem 0.6rem;
        border-radius: 5px;
        color: var(--text);
        text-decoration: none;
        font-size: 13px;
      }
      a:hover {
        background: var(--sunken);
      }
      a[aria-current] {
        background: var(--accent-tint);
      }
      .name {
        grid-column: 1 / -1;
        overflow: hidden;
        text-overflow: ellipsis;
        white-space: nowrap;
      }
      time {
        white-space: nowrap;
        font-variant-numeric: tabular-nums;
      }
    `,
  ];
}
