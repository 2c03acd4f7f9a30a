/* The mark of a task's stage: shape and colour and, beside it, always the word. */
import { css, html } from "lit";
import type { TemplateResult } from "lit";

import { stageWord } from "../app/words.ts";
import type { Stage } from "../app/words.ts";

export const stageStyles = css`
  .stage {
    display: inline-flex;
    align-items: center;
    gap: 0.4em;
    white-space: nowrap;
    color: var(--muted);
  }
  .stage i {
    width: 0.6em;
    height: 0.6em;
    border-radius: 50%;
    border: 2px solid currentColor;
    flex: none;
  }
  .stage.running,
  .stage.assigned {
    color: var(--accent);
  }
  .stage.running i {
    background: currentColor;
  }
  .stage.completed {
    color: var(--good);
  }
  .stage.completed i {
    background: currentColor;
  }
  .stage.failed {
    color: var(--bad);
  }
  .stage.failed i {
    background: currentColor;
    border-radius: 0;
  }
  .stage.cancelled i,
  .stage.cancelling i {
    border-radius: 0;
  }
  .stage.cancelling {
    color: var(--warn);
  }
  @media (prefers-reduced-motion: no-preference) {
    .stage.running i {
      animation: breathe 1.6s ease-in-out infinite;
    }
    @keyframes breathe {
      50% {
        opacity: 0.35;
      }
    }
  }
`;

export function stageMark(stage: Stage): TemplateResult {
  return html`<span class="stage ${stage}"><i aria-hidden="true"></i>${stageWord(stage)}</span>`;
}
