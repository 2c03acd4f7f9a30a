/* How an error from the gateway is shown: what happened, where, and what to do. */
import { html, nothing } from "lit";
import type { TemplateResult } from "lit";

import { GatewayError } from "../../../client/src/index.ts";
import type { ErrorInfo } from "../../../client/src/index.ts";
import { sentence } from "./words.ts";

export function refusal(error: ErrorInfo, title = ""): TemplateResult {
  return html`<div class="note bad" role="alert">
    <p>${title ? html`<strong>${title}</strong> ` : nothing}${sentence(error.message)}</p>
    ${error.hint ? html`<p>${sentence(error.hint)}</p>` : nothing}
    <p class="muted code">${error.code}${error.where ? html` at ${error.where}` : nothing}</p>
  </div>`;
}

/** What to show for a call that failed; anything but a gateway's error is a defect of this page and is thrown on. */
export function infoOf(problem: unknown): ErrorInfo {
  if (problem instanceof GatewayError) return problem.info;
  throw problem;
}
