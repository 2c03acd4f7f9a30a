/* The list of actions, by plugin. */
import { LitElement, css, html, nothing } from "lit";
import { customElement, property } from "lit/decorators.js";

import { controls, notes } from "../styles/shared.ts";
import type { Action, Catalogue } from "../../../client/src/index.ts";
import { actionHash } from "./routes.ts";

@customElement("apex-actions")
export class ApexActions extends LitElement {
  @property({ attribute: false }) catalogue: Catalogue | null = null;
  /** The address of what is open now. */
  @property() current = "";

  override render() {
    if (this.catalogue === null) return html`<p class="muted">Loading…</p>`;
    return html`${[...byPlugin(this.catalogue.actions)].map(([plugin, actions]) => this.group(plugin, actions))}
    ${this.catalogue.actions.length === 0 ? empty(this.catalogue.runners) : nothing}
    ${this.catalogue.brokenPlugins.map(broken)}`;
  }

  private group(plugin: string, actions: readonly Action[]) {
    return html`<section>
      <h3>${plugin}</h3>
      <ul>
        ${actions.map((action) => this.item(action))}
      </ul>
    </section>`;
  }

  private item({ plugin, action, summary }: Action) {
    const hash = actionHash(plugin, action);
    return html`<li>
      <a href=${hash} aria-current=${hash === this.current ? "page" : nothing}>
        <span class="name">${action}</span><span class="muted summary">${summary}</span>
      </a>
    </li>`;
  }

  static override readonly styles = [
    controls,
    notes,
    css`
      section + section {
        margin-top: 0.8rem;
      }
      h3 {
        font: 600 12px/1.5 var(--code-face);
        color: var(--muted);
        padding: 0 0.6rem;
      }
      a {
        display: block;
        padding: 0.3rem 0.6rem;
        border-radius: 5px;
        color: var(--text);
        text-decoration: none;
        overflow-wrap: anywhere;
      }
      a:hover {
        background: var(--sunken);
      }
      a[aria-current] {
        background: var(--accent-tint);
      }
      .name {
        display: block;
        font-weight: 600;
      }
      .summary {
        display: block;
        font-size: 13px;
        line-height: 1.4;
      }
      .note {
        margin-top: 0.6rem;
        font-size: 13px;
      }
    `,
  ];
}

function byPlugin(actions: readonly Action[]): Map<string, Action[]> {
  const groups = new Map<string, Action[]>();
  for (const action of actions) {
    const group = groups.get(action.plugin);
    if (group === undefined) groups.set(action.plugin, [action]);
    else group.push(action);
  }
  return groups;
}

function empty(runners: number) {
  return runners === 0
    ? html`<div class="note">
        <p>Actions appear here when a runner connects. <code>apexstream up</code> starts everything on one machine.</p>
      </div>`
    : html`<div class="note">
        <p>
          The connected runners have no plugin. Install one beside them, for example
          <code>apexstream-plugin-corpus</code>, and restart them.
        </p>
      </div>`;
}

function broken(plugin: string) {
  return html`<div class="note warn">
    <p><strong>A plugin could not be loaded.</strong> ${plugin}</p>
    <p>Its actions are missing until this is mended and the runner restarted.</p>
  </div>`;
}
