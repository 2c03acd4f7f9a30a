/* The form that submits a task: an action's parameters and the tier. */
import { LitElement, css, html, nothing } from "lit";
import type { PropertyValues } from "lit";
import { customElement, property, state } from "lit/decorators.js";

import { infoOf, refusal } from "../app/refusal.ts";
import { sentence } from "../app/words.ts";
import { controls, notes } from "../styles/shared.ts";
import type { Action, ErrorInfo, Gateway, Task } from "../../../client/src/index.ts";
import type { Fields } from "../../../client/src/reading.ts";
import { labelled } from "./controls.ts";
import { fieldsFor } from "./schema.ts";
import type { Field } from "./schema.ts";
import { fieldAtFault, initialEntry, readEntries } from "./values.ts";
import type { Problems } from "./values.ts";

/** Tells of the accepted task with the event `apex-submitted`, whose detail is the task. */
@customElement("apex-action-form")
export class ApexActionForm extends LitElement {
  @property({ attribute: false }) gateway!: Gateway;
  @property({ attribute: false }) action!: Action;
  @property({ type: Number }) runners = 0;
  /** The most urgent first. */
  @property({ attribute: false }) tiers: readonly string[] = [];
  /** The one that is chosen; at first the gateway's default. */
  @property() tier = "";
  /** What was entered so far, kept by the owner so that coming back finds it again. */
  @property({ attribute: false }) entries: Map<string, string> = new Map();

  @state() private fields: readonly Field[] = [];
  @state() private problems: Problems = new Map();
  @state() private refused: ErrorInfo | null = null;
  @state() private sending = false;

  override willUpdate(changed: PropertyValues): void {
    if (changed.has("action")) this.fields = fieldsFor(this.action.paramsSchema);
  }

  override render() {
    return html`
      <header>
        <h2 tabindex="-1">${this.action.plugin} · ${this.action.action}</h2>
        <p class="muted">${this.action.summary}</p>
      </header>
      ${this.runners === 0 ? noRunner() : nothing}
      <form novalidate @submit=${this.submitted} @keydown=${this.keyed}>
        ${this.fields.length === 0 ? html`<p class="muted">This action takes no parameters.</p>` : nothing}
        ${this.fields.map((field, index) => this.control(field, index))} ${this.choice()}
        ${this.refused ? refusal(this.refused, "Not submitted.") : nothing}
        <div class="send">
          <button class="primary" type="submit" ?disabled=${this.sending}>
            ${this.sending ? "Submitting…" : "Submit task"}
          </button>
          <span class="muted">Enter submits, Shift+Enter starts a new line.</span>
        </div>
      </form>
    `;
  }

  private control(field: Field, index: number) {
    return labelled({
      field,
      id: `parameter-${index}`,
      entry: this.entries.get(field.name) ?? initialEntry(field),
      problem: this.problems.get(field.name) ?? "",
      changed: (event) => this.enter(field.name, event.target),
    });
  }

  private choice() {
    return html`<fieldset>
      <legend>Tier</legend>
      ${this.tiers.map(
        (tier, place) => html`<label>
          <input
            type="radio"
            name="tier"
            value=${tier}
            .checked=${this.tier === tier}
            @change=${() => (this.tier = tier)}
          />
          <span>${tier}</span> <span class="muted">${tierMeans(place, this.tiers.length)}</span>
        </label>`,
      )}
    </fieldset>`;
  }

  private enter(name: string, target: EventTarget | null): void {
    if (!isControl(target)) return;
    this.entries.set(name, target.type === "checkbox" ? String((target as HTMLInputElement).checked) : target.value);
    if (this.problems.has(name)) this.problems = new Map([...this.problems].filter(([other]) => other !== name));
    this.requestUpdate();
  }

  private readonly keyed = (event: KeyboardEvent): void => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    if (!(event.target instanceof HTMLTextAreaElement)) return;
    if (event.target.dataset["multiline"] && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    event.target.form?.requestSubmit();
  };

  private readonly submitted = (event: SubmitEvent): void => {
    event.preventDefault();
    if (this.sending) return;
    this.refused = null;
    const reading = readEntries(this.fields, this.entries);
    if ("problems" in reading) this.point(reading.problems);
    else void this.send(reading.params);
  };

  private async send(params: Fields): Promise<void> {
    this.problems = new Map();
    this.sending = true;
    const { plugin, action } = this.action;
    try {
      const task = await this.gateway.submit({ plugin, action, params, tier: this.tier });
      this.dispatchEvent(new CustomEvent<Task>("apex-submitted", { detail: task }));
    } catch (problem) {
      this.refuse(infoOf(problem));
    } finally {
      this.sending = false;
    }
  }

  private refuse(error: ErrorInfo): void {
    const name = fieldAtFault(error, this.fields);
    if (name === "") this.refused = error;
    else this.point(new Map([[name, [error.message, error.hint].filter(Boolean).map(sentence).join(" ")]]));
  }

  private point(problems: Problems): void {
    this.problems = problems;
    void this.updateComplete.then(() => this.renderRoot.querySelector<HTMLElement>("[aria-invalid=true]")?.focus());
  }

  static override readonly styles = [
    controls,
    notes,
    css`
      :host {
        display: block;
        max-width: 46rem;
      }
      h2 {
        font-size: 20px;
        line-height: 1.3;
        overflow-wrap: anywhere;
      }
      .note {
        margin-top: 1rem;
      }
      form {
        margin-top: 1.4rem;
      }
      .field {
        display: grid;
        grid-template-columns: auto minmax(0, 1fr);
        column-gap: 0.7rem;
        align-items: baseline;
        margin-bottom: 1.2rem;
      }
      .field label {
        font: 600 13px/1.5 var(--code-face);
      }
      .expects {
        font-size: 13px;
      }
      .expects b {
        font-weight: 600;
        color: var(--text);
      }
      .about,
      .problem {
        grid-column: 1 / -1;
        font-size: 13px;
      }
      .problem {
        color: var(--bad);
        overflow-wrap: anywhere;
      }
      textarea,
      select,
      input[type="text"] {
        grid-column: 1 / -1;
        width: 100%;
        margin: 0.25rem 0;
        padding: 0.4rem 0.6rem;
        font: inherit;
        color: var(--text);
        background: var(--surface);
        border: 1px solid var(--line-strong);
        border-radius: 5px;
        resize: none;
        field-sizing: content;
      }
      input[type="text"] {
        field-sizing: fixed;
        max-width: 20rem;
      }
      textarea.code {
        resize: vertical;
        font: 13px/1.5 var(--code-face);
      }
      select {
        max-width: 20rem;
      }
      [aria-invalid="true"] {
        border-color: var(--bad);
      }
      input {
        accent-color: var(--accent);
      }
      input[type="checkbox"] {
        grid-column: 1 / -1;
        width: 1.05rem;
        height: 1.05rem;
        margin: 0.35rem 0;
        justify-self: start;
      }
      fieldset {
        border: 0;
        padding: 0;
        margin: 0 0 1.2rem;
        display: flex;
        flex-wrap: wrap;
        gap: 0.2rem 1.4rem;
      }
      legend {
        padding: 0;
        font-weight: 600;
        margin-bottom: 0.2rem;
      }
      .send {
        display: flex;
        flex-wrap: wrap;
        align-items: center;
        gap: 0.5rem 1rem;
        margin-top: 1rem;
        font-size: 13px;
      }
      .send button {
        font-size: 14px;
      }
    `,
  ];
}

function tierMeans(place: number, count: number): string {
  if (count === 1) return "";
  if (place === 0) return "before all others";
  return place === count - 1 ? "after all others" : "";
}

type Control = HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement;

function isControl(target: EventTarget | null): target is Control {
  return [HTMLInputElement, HTMLTextAreaElement, HTMLSelectElement].some((kind) => target instanceof kind);
}

function noRunner() {
  return html`<div class="note warn">
    <p><strong>No runner is connected.</strong> Until one is, tasks are refused or wait.</p>
    <p>Start one with <code>apexstream serve runner</code>, or everything together with <code>apexstream up</code>.</p>
  </div>`;
}
