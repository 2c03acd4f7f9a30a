/* What a close code says about connecting again; the codes are the gateway's data. */
import known from "../../../../schemas/gateway/close-codes.json" with { type: "json" };

/** `later`: once the cause is gone; with another token, or after a pause. */
export type Reconnect = "yes" | "later" | "no";

/** A code that is neither named nor in a range says nothing against it. */
export function reconnectAfter(code: number): Reconnect {
  const named = known.codes.find((each) => each.code === code);
  const span = known.ranges.find(({ from, to }) => from <= code && code <= to);
  return (named?.reconnect ?? span?.reconnect ?? "yes") as Reconnect;
}
