/* How states, times and numbers are said. */

const COUNT = new Intl.NumberFormat("en");
const AGO = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });

export function counted(count: number, noun: string): string {
  return `${COUNT.format(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** With a full stop, unless it ends with a mark of its own. */
export function sentence(text: string): string {
  return /[.!?…:]$/.test(text) ? text : `${text}.`;
}

/** A span of time, from milliseconds: "340 ms", "3.2 s", "4 min 10 s", "2 h 5 min". */
export function span(ms: number): string {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 59_950) return `${(ms / 1_000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1_000);
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
}

export function ago(us: number, nowMs: number): string {
  const seconds = Math.min(0, Math.round((us / 1_000 - nowMs) / 1_000));
  if (seconds > -5) return "now";
  if (seconds > -60) return AGO.format(seconds, "second");
  if (seconds > -3_600) return AGO.format(Math.trunc(seconds / 60), "minute");
  if (seconds > -86_400) return AGO.format(Math.trunc(seconds / 3_600), "hour");
  return AGO.format(Math.trunc(seconds / 86_400), "day");
}

export function clock(us: number): string {
  return new Date(us / 1_000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** The states that a viewer sees. "unknown": no task has this id; "loading": over, but its end is still to come here. */
export type Stage =
  "unknown" | "waiting" | "assigned" | "running" | "cancelling" | "loading" | "completed" | "failed" | "cancelled";

const STAGES: Record<Stage, string> = {
  unknown: "Not found",
  waiting: "Waiting",
  assigned: "Starting",
  running: "Running",
  cancelling: "Cancelling",
  loading: "Loading",
  completed: "Complete",
  failed: "Failed",
  cancelled: "Cancelled",
};

export function stageOf(status: string): Stage {
  return Object.hasOwn(STAGES, status) ? (status as Stage) : "unknown";
}

export function stageWord(stage: Stage): string {
  return STAGES[stage];
}

export function isFinal(stage: Stage): boolean {
  return stage === "completed" || stage === "failed" || stage === "cancelled";
}
