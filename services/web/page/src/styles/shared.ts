/* Styles that several components adopt, as constructed style sheets: no inline style anywhere. */
import { css } from "lit";

export const controls = css`
  *,
  *::before,
  *::after {
    box-sizing: border-box;
  }
  :host,
  * {
    scrollbar-color: var(--line-strong) transparent;
    scrollbar-width: thin;
  }
  [hidden] {
    display: none !important;
  }
  h1,
  h2,
  h3,
  p,
  ul,
  ol,
  dl,
  dd {
    margin: 0;
    padding: 0;
  }
  ul,
  ol {
    list-style: none;
  }
  code,
  pre,
  .code {
    font-family: var(--code-face);
    font-size: 0.92em;
  }
  a {
    color: var(--accent);
    text-underline-offset: 0.15em;
  }
  :focus-visible {
    outline: 2px solid var(--accent);
    outline-offset: 2px;
    border-radius: 3px;
  }
  [tabindex="-1"]:focus-visible {
    outline: none;
  }
  button {
    font: inherit;
    color: var(--text);
    background: var(--surface);
    border: 1px solid var(--line-strong);
    border-radius: 5px;
    padding: 0.3rem 0.8rem;
    cursor: pointer;
  }
  button:hover:not(:disabled) {
    border-color: var(--text);
  }
  button:disabled {
    opacity: 0.55;
    cursor: default;
  }
  button.primary {
    background: var(--accent);
    border-color: var(--accent);
    color: var(--accent-text);
    font-weight: 600;
  }
  button.quiet {
    border-color: transparent;
    background: none;
    color: var(--accent);
    padding: 0 0.25rem;
  }
  button.quiet:hover:not(:disabled) {
    text-decoration: underline;
    border-color: transparent;
  }
  .muted {
    color: var(--muted);
  }
  .hidden-text {
    position: absolute;
    width: 1px;
    height: 1px;
    overflow: hidden;
    clip-path: inset(50%);
    white-space: nowrap;
  }
`;

/** A message with a coloured edge: what happened, and what to do. */
export const notes = css`
  .note {
    border-left: 3px solid var(--line-strong);
    background: var(--sunken);
    padding: 0.6rem 0.9rem;
    border-radius: 0 5px 5px 0;
    overflow-wrap: anywhere;
  }
  .note.warn {
    border-color: var(--warn);
    background: var(--warn-tint);
  }
  .note.bad {
    border-color: var(--bad);
    background: var(--bad-tint);
  }
  .note strong {
    font-weight: 600;
  }
  .note p + p {
    margin-top: 0.2rem;
  }
`;
