/* The page's addresses: what follows `#`. */

export type Route =
  | { readonly view: "start" }
  | { readonly view: "action"; readonly plugin: string; readonly action: string }
  | { readonly view: "stream"; readonly streamId: string }
  | { readonly view: "nowhere" };

const ID = /^[a-z0-9][a-z0-9._-]{0,127}$/;

export function routeOf(hash: string): Route {
  const steps = hash
    .replace(/^#?\/?/, "")
    .split("/")
    .map(decoded);
  const [view = "", first = "", second = ""] = steps;
  if (view === "" && steps.length === 1) return { view: "start" };
  if (view === "stream" && steps.length === 2 && ID.test(first)) return { view: "stream", streamId: first };
  if (view === "action" && steps.length === 3) return { view: "action", plugin: first, action: second };
  return { view: "nowhere" };
}

export function streamHash(streamId: string): string {
  return `#/stream/${encodeURIComponent(streamId)}`;
}

export function actionHash(plugin: string, action: string): string {
  return `#/action/${encodeURIComponent(plugin)}/${encodeURIComponent(action)}`;
}

function decoded(step: string): string {
  try {
    return decodeURIComponent(step);
  } catch {
    return step;
  }
}
