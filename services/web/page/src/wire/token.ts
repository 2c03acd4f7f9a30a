/* The token that the page shows to a gateway that wants one: from the address it was opened with (`#token=…`) or typed in.
 * It is kept for this tab only, and never put into an address. */

const KEY = "apexstream.token";
const FRAGMENT = /^#token=([A-Za-z0-9._-]+)$/;

/** The part of the browser's storage that is needed here. */
export interface Store {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

export class Token {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** Take the token out of an address's fragment; the result tells whether there was one, and the address must be cleared. */
  take(hash: string): boolean {
    const given = FRAGMENT.exec(hash)?.[1];
    if (given !== undefined) this.set(given);
    return given !== undefined;
  }

  set(value: string): void {
    this.#store.setItem(KEY, value.trim());
  }

  get value(): string {
    return this.#store.getItem(KEY) ?? "";
  }
}
