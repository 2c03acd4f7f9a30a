import { css } from "lit";

export const appStyles = css`
  :host {
    display: grid;
    grid-template-rows: auto auto minmax(0, 1fr);
    height: 100vh;
    height: 100dvh;
  }
  .top {
    display: flex;
    align-items: baseline;
    justify-content: space-between;
    gap: 1rem;
    padding: 0.55rem 1.2rem;
    background: var(--surface);
    border-bottom: 1px solid var(--line);
    font-size: 13px;
  }
  h1 {
    font-size: 15px;
    font-weight: 650;
    letter-spacing: -0.01em;
  }
  h1 a {
    color: inherit;
    text-decoration: none;
  }
  .body {
    grid-row: 3;
    display: grid;
    grid-template-columns: 19rem minmax(0, 1fr);
    min-height: 0;
  }
  nav {
    overflow: auto;
    padding: 1rem 0.6rem 2rem;
    border-right: 1px solid var(--line);
  }
  nav h2 {
    font-size: 13px;
    padding: 0 0.6rem 0.4rem;
  }
  nav h2:not(:first-child) {
    margin-top: 1.6rem;
  }
  main {
    overflow: auto;
    padding: 1.4rem 1.8rem;
    min-width: 0;
  }
  .message {
    max-width: 34rem;
  }
  .message h2 {
    font-size: 20px;
    line-height: 1.3;
    margin-bottom: 0.3rem;
    overflow-wrap: anywhere;
  }
  .back {
    display: none;
  }
  .outage .note {
    border-radius: 0;
    padding-left: 1rem;
  }
  @media (max-width: 760px) {
    .body {
      display: block;
      overflow: auto;
    }
    nav {
      border: 0;
    }
    .body:not([data-view="start"]) nav,
    .body[data-view="start"] main {
      display: none;
    }
    main {
      padding: 1rem;
    }
    apex-stream {
      height: calc(100dvh - 7.5rem);
    }
    .back {
      display: block;
      margin-top: 1rem;
    }
  }
`;
