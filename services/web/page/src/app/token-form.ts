/* Asks for a token, when the gateway wants one. */
import { LitElement, css, html } from "lit";
import { customElement, property } from "lit/decorators.js";

import { controls, notes } from "../styles/shared.ts";
import type { Token } from "../wire/token.ts";

@customElement("apex-token-form")
export class ApexTokenForm extends LitElement {
  @property({ attribute: false }) token!: Token;

  private readonly entered = (event: Event): void => {
    event.preventDefault();
    const input = this.renderRoot.querySelector("input");
    if (!input?.value.trim()) return;
    this.token.set(input.value);
    input.value = "";
    this.dispatchEvent(new CustomEvent("apex-token"));
  };

  override render() {
    return html`<form @submit=${this.entered}>
      <label>Token <input type="password" autocomplete="off" required /></label>
      <button>Use it in this tab</button>
    </form>`;
  }

  static override readonly styles = [
    controls,
    notes,
    css`
      form {
        display: flex;
        gap: 0.6rem;
        align-items: end;
        padding: 0.6rem 1rem;
      }
    `,
  ];
}
