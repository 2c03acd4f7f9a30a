/* One parameter of an action as a labelled control. */
import { html, nothing } from "lit";
import type { TemplateResult } from "lit";

import { compactJson } from "../stream/json-text.ts";
import type { Field } from "./schema.ts";

const STANDARD_CHARS_MAX = 60;

export interface Filled {
  readonly field: Field;
  readonly entry: string;
  readonly problem: string;
  /** Unique in the form. */
  readonly id: string;
  readonly changed: (event: Event) => void;
}

export function labelled(filled: Filled): TemplateResult {
  const { field, problem, id } = filled;
  return html`<div class="field" data-name=${field.name}>
    <label for=${id}>${field.name}</label>
    <span class="expects muted">${field.expects}${field.required ? html`, <b>required</b>` : ", optional"}</span>
    ${control(filled)}
    <p id="${id}-about" class="about muted">
      ${field.description} ${standardOf(field)}
    </p>
    ${problem ? html`<p id="${id}-problem" class="problem">${problem}</p>` : nothing}
  </div>`;
}

function control(filled: Filled): TemplateResult {
  const { kind, required, standard } = filled.field;
  if (kind === "choice") return choice(filled);
  if (kind === "boolean") return required || typeof standard === "boolean" ? tick(filled) : threeWay(filled);
  return kind === "integer" || kind === "number" ? number(filled) : written(filled);
}

function number({ field, entry, problem, id, changed }: Filled): TemplateResult {
  return html`<input
    id=${id}
    name=${field.name}
    type="text"
    inputmode=${field.kind === "integer" ? "numeric" : "decimal"}
    autocomplete="off"
    aria-required=${field.required}
    aria-invalid=${problem !== ""}
    aria-describedby="${id}-about ${id}-problem"
    .value=${entry}
    @input=${changed}
  />`;
}

/** Text of one line or many; it grows with what is in it. */
function written({ field, entry, problem, id, changed }: Filled): TemplateResult {
  const json = field.kind === "json";
  return html`<textarea
    id=${id}
    name=${field.name}
    rows=${json ? 2 : 1}
    class=${json ? "code" : "text"}
    data-multiline=${json ? "yes" : nothing}
    spellcheck="false"
    autocomplete="off"
    aria-required=${field.required}
    aria-invalid=${problem !== ""}
    aria-describedby="${id}-about ${id}-problem"
    .value=${entry}
    @input=${changed}
  ></textarea>`;
}

function choice({ field, entry, problem, id, changed }: Filled): TemplateResult {
  return html`<select
    id=${id}
    name=${field.name}
    aria-invalid=${problem !== ""}
    aria-describedby="${id}-about ${id}-problem"
    @change=${changed}
  >
    ${field.required && entry !== "" ? nothing : unset(field.required ? "choose…" : "not set", entry)}
    ${field.choices.map(
      (option, index) => html`<option value=${index} ?selected=${entry === String(index)}>${String(option)}</option>`,
    )}
  </select>`;
}

function unset(words: string, entry: string): TemplateResult {
  return html`<option value="" ?selected=${entry === ""}>${words}</option>`;
}

function tick({ field, entry, id, changed }: Filled): TemplateResult {
  return html`<input
    id=${id}
    name=${field.name}
    type="checkbox"
    aria-describedby="${id}-about"
    .checked=${entry === "true"}
    @change=${changed}
  />`;
}

function threeWay({ field, entry, id, changed }: Filled): TemplateResult {
  return html`<select id=${id} name=${field.name} aria-describedby="${id}-about" @change=${changed}>
    ${["", "true", "false"].map(
      (option) => html`<option value=${option} ?selected=${entry === option}>${option || "not set"}</option>`,
    )}
  </select>`;
}

function standardOf({ standard }: Field): TemplateResult | typeof nothing {
  if (standard === undefined) return nothing;
  const text = compactJson(standard, STANDARD_CHARS_MAX).map((token) => token.text);
  return html`Default: <code>${text}</code>`;
}
