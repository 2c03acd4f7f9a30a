/* The page: what there is on the left, what is open on the right. Holds what several parts need to know. */
import { LitElement, html, nothing } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { keyed } from "lit/directives/keyed.js";

import "../form/action-form.ts";
import "../stream/stream-view.ts";
import { controls, notes } from "../styles/shared.ts";
import type { Action, Catalogue, Connection, ErrorInfo, Gateway, Task } from "../../../client/src/index.ts";
import type { Token } from "../wire/token.ts";
import "./actions.ts";
import { appStyles } from "./app.styles.ts";
import { infoOf, refusal } from "./refusal.ts";
import { Repeater } from "./repeater.ts";
import { actionHash, routeOf, streamHash } from "./routes.ts";
import type { Route } from "./routes.ts";
import "./tasks.ts";
import "./token-form.ts";
import { counted } from "./words.ts";

const TASKS_SHOWN = 20;
const TASKS_MS = 4_000;
const CATALOGUE_MS = 30_000;
const CATALOGUE_SOON_MS = 4_000; // while something is missing: the gateway, or a runner

const START = "Its results stream in here one by one, and stay: any task can be opened again from the start.";
const NO_RUNNER =
  "Runners run the actions. Start one with “apexstream serve runner”, or everything together with “apexstream up”; " +
  "this page notices by itself.";
const NOT_OFFERED = "No connected runner offers this action. It appears when one does.";
const NOWHERE = "This address is not one of this page. Choose an action, or open a recent task.";

@customElement("apex-app")
export class ApexApp extends LitElement {
  @property({ attribute: false }) gateway!: Gateway;
  @property({ attribute: false }) connection!: Connection;
  @property({ attribute: false }) token!: Token;

  @state() private route: Route = { view: "start" };
  @state() private hash = "";
  @state() private catalogue: Catalogue | null = null;
  @state() private tasks: readonly Task[] | null = null;
  @state() private tasksAtMs = 0;
  @state() private unreachable: ErrorInfo | null = null;

  private readonly entries = new Map<string, Map<string, string>>(); // by action, for coming back to a form
  private readonly askingCatalogue = new Repeater(() => this.askCatalogue());
  private readonly askingTasks = new Repeater(() => this.askTasks());

  override connectedCallback(): void {
    super.connectedCallback();
    window.addEventListener("hashchange", this.moved);
    window.addEventListener("online", this.online);
    document.addEventListener("visibilitychange", this.online);
    this.read();
    this.askingCatalogue.now();
    this.askingTasks.now();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    window.removeEventListener("hashchange", this.moved);
    window.removeEventListener("online", this.online);
    document.removeEventListener("visibilitychange", this.online);
    this.askingCatalogue.stop();
    this.askingTasks.stop();
  }

  private read(): void {
    this.hash = location.hash;
    this.route = routeOf(location.hash);
    this.entitle("");
  }

  private readonly moved = (): void => {
    this.read();
    void this.updateComplete.then(() => this.focusHeading());
  };

  /** Take the focus along to what was opened, so that a keyboard or a screen reader goes on there. */
  private async focusHeading(): Promise<void> {
    const view = this.renderRoot.querySelector<LitElement>("main > :first-child");
    await view?.updateComplete;
    (view?.shadowRoot ?? view)?.querySelector<HTMLElement>("h2")?.focus();
  }

  private readonly online = (): void => {
    if (document.hidden) return;
    this.connection.retryNow();
    this.askingCatalogue.now();
    this.askingTasks.now();
  };

  private entitle(what: string): void {
    document.title = what ? `${what} – ApexStream` : "ApexStream";
  }

  private async askCatalogue(): Promise<number> {
    try {
      this.catalogue = await this.gateway.catalogue();
      this.unreachable = null;
    } catch (problem) {
      this.unreachable = infoOf(problem);
    }
    const complete = this.unreachable === null && (this.catalogue?.runners ?? 0) > 0;
    return complete ? CATALOGUE_MS : CATALOGUE_SOON_MS;
  }

  private async askTasks(): Promise<number> {
    try {
      this.tasks = await this.gateway.tasks(TASKS_SHOWN);
      this.tasksAtMs = Date.now();
      if (this.unreachable !== null) this.askingCatalogue.now();
    } catch (problem) {
      this.unreachable = infoOf(problem);
    }
    return TASKS_MS;
  }

  private readonly accepted = (event: CustomEvent<Task>): void => {
    location.hash = streamHash(event.detail.streamId);
    this.askingTasks.now();
  };

  private readonly staged = (event: CustomEvent<string>): void => {
    this.entitle(event.detail);
    this.askingTasks.now();
  };

  override render() {
    return html`
      <header class="top">
        <h1><a href="#/">ApexStream</a></h1>
        <span class="muted">${this.runners()}</span>
      </header>
      ${this.unreachable ? html`<div class="outage">${refusal(this.unreachable)}</div>` : nothing}
      ${this.unreachable?.code === "unauthenticated"
        ? html`<apex-token-form .token=${this.token} @apex-token=${this.online}></apex-token-form>`
        : nothing}
      <div class="body" data-view=${this.route.view}>
        <nav aria-label="Actions and tasks">
          <h2>Actions</h2>
          <apex-actions .catalogue=${this.catalogue} current=${this.hash}></apex-actions>
          <h2>Recent tasks</h2>
          <apex-tasks .tasks=${this.tasks} .nowMs=${this.tasksAtMs} current=${this.hash}></apex-tasks>
        </nav>
        <main>
          ${this.view()}
          <p class="back"><a href="#/">Actions and tasks</a></p>
        </main>
      </div>
    `;
  }

  private runners(): string {
    if (this.unreachable?.code === "unauthenticated") return "the gateway wants a token";
    if (this.unreachable !== null) return "gateway not reachable";
    if (this.catalogue === null) return "";
    const { runners } = this.catalogue;
    return runners === 0 ? "no runner connected" : `${counted(runners, "runner")} connected`;
  }

  private view() {
    switch (this.route.view) {
      case "start":
        return this.start();
      case "action":
        return this.form(this.route.plugin, this.route.action);
      case "stream":
        return html`<apex-stream
          .gateway=${this.gateway}
          .connection=${this.connection}
          .runners=${this.catalogue?.runners ?? null}
          streamId=${this.route.streamId}
          @apex-stage=${this.staged}
        ></apex-stream>`;
      case "nowhere":
        return message("Nothing here", NOWHERE);
    }
  }

  private start() {
    if (this.catalogue?.runners === 0) {
      return message("No runner is connected", NO_RUNNER);
    }
    return message("Choose an action", START);
  }

  private form(plugin: string, name: string) {
    const action = this.catalogue?.actions.find((each) => each.plugin === plugin && each.action === name);
    if (this.catalogue === null) return html`<p class="muted">Loading…</p>`;
    if (action === undefined) return message(`${plugin} · ${name}`, NOT_OFFERED);
    const form = html`<apex-action-form
      .gateway=${this.gateway}
      .action=${action}
      .runners=${this.catalogue.runners}
      .tiers=${this.catalogue.tiers}
      tier=${this.catalogue.defaultTier}
      .entries=${this.entriesOf(action)}
      @apex-submitted=${this.accepted}
    ></apex-action-form>`;
    return keyed(actionHash(plugin, name), form); // a control must not keep what was chosen in another action's form
  }

  private entriesOf({ plugin, action }: Action): Map<string, string> {
    const key = actionHash(plugin, action);
    const kept = this.entries.get(key) ?? new Map<string, string>();
    this.entries.set(key, kept);
    return kept;
  }

  static override readonly styles = [controls, notes, appStyles];
}

function message(title: string, text: string) {
  return html`<section class="message">
    <h2 tabindex="-1">${title}</h2>
    <p class="muted">${text}</p>
  </section>`;
}
