import { css } from "lit";

export const streamViewStyles = css`
  :host {
    display: flex;
    flex-direction: column;
    gap: 0.8rem;
    height: 100%;
    min-height: 0;
  }
  .title {
    display: flex;
    flex-wrap: wrap;
    align-items: baseline;
    gap: 0.3rem 1rem;
  }
  h2 {
    font-size: 20px;
    line-height: 1.3;
    overflow-wrap: anywhere;
  }
  .do {
    margin-left: auto;
  }
  dl {
    display: flex;
    flex-wrap: wrap;
    gap: 0 1.4rem;
    margin-top: 0.2rem;
    font-size: 13px;
  }
  dl div {
    display: flex;
    gap: 0.4rem;
  }
  dt {
    color: var(--muted);
  }
  dd {
    overflow-wrap: anywhere;
    font-variant-numeric: tabular-nums;
  }
  div:first-child > dd {
    user-select: all;
    font: 12.5px/1.7 var(--code-face);
  }
  .progress {
    display: grid;
    gap: 0.3rem;
    font-size: 13px;
    font-variant-numeric: tabular-nums;
    overflow-wrap: anywhere;
  }
  progress {
    appearance: none;
    width: 100%;
    height: 6px;
    border: 0;
    border-radius: 3px;
    overflow: hidden;
    background: var(--line);
    accent-color: var(--accent);
  }
  progress::-webkit-progress-bar {
    background: var(--line);
  }
  progress::-webkit-progress-value {
    background: var(--accent);
  }
  progress::-moz-progress-bar {
    background: var(--accent);
  }
  :host([stage="completed"]) progress::-webkit-progress-value {
    background: var(--good);
  }
  :host([stage="completed"]) progress::-moz-progress-bar {
    background: var(--good);
  }
  :host([stage="failed"]) progress::-webkit-progress-value,
  :host([stage="cancelled"]) progress::-webkit-progress-value {
    background: var(--line-strong);
  }
  :host([stage="failed"]) progress::-moz-progress-bar,
  :host([stage="cancelled"]) progress::-moz-progress-bar {
    background: var(--line-strong);
  }
  .bar {
    display: flex;
    flex-wrap: wrap;
    gap: 0 1rem;
    font-size: 13px;
    font-variant-numeric: tabular-nums;
    margin-bottom: -0.4rem;
  }
  .live {
    margin-left: auto;
    color: var(--good);
  }
  .rows {
    position: relative;
    flex: 1;
    min-height: 14rem;
  }
  apex-rows {
    height: 100%;
  }
  .empty {
    position: absolute;
    inset: 0;
    display: grid;
    place-content: center;
    text-align: center;
    padding: 1rem;
    pointer-events: none;
  }
`;
