/* From what is typed into a form to the `params` of a submission, and from a refusal back to the field it is about. */
import type { ErrorInfo } from "../../../client/src/index.ts";
import type { Fields } from "../../../client/src/reading.ts";
import type { Field } from "./schema.ts";

/** What each field's control holds, by the field's name: text, or the number of the choice, or "true" and "false". */
export type Entries = ReadonlyMap<string, string>;

export type Problems = ReadonlyMap<string, string>;

export type Reading = { readonly params: Fields } | { readonly problems: Problems };

const LINE_CHARS_MAX = 100; // a default up to this long stays on one line

type Value = { readonly value: unknown } | { readonly problem: string } | "absent";

/** What a control holds before anyone touched it. */
export function initialEntry(field: Field): string {
  const { kind, standard, choices } = field;
  if (kind === "choice") {
    const chosen = choices.indexOf(standard);
    return chosen >= 0 ? String(chosen) : field.required && choices.length === 1 ? "0" : "";
  }
  if (standard === undefined || standard === null) return kind === "boolean" && field.required ? "false" : "";
  if (kind === "json") return written(standard);
  return String(standard);
}

function written(standard: unknown): string {
  const line = JSON.stringify(standard);
  return line.length > LINE_CHARS_MAX ? JSON.stringify(standard, null, 2) : line;
}

/** The params, or every problem by the name of its field. What is left empty is left out: the action has its own default. */
export function readEntries(fields: readonly Field[], entries: Entries): Reading {
  const params: [string, unknown][] = [];
  const problems = new Map<string, string>();
  for (const field of fields) {
    const read = readEntry(field, entries.get(field.name) ?? initialEntry(field));
    if (read === "absent") continue;
    if ("problem" in read) problems.set(field.name, read.problem);
    else params.push([field.name, read.value]);
  }
  return problems.size > 0 ? { problems } : { params: Object.fromEntries(params) };
}

function readEntry(field: Field, entry: string): Value {
  if (entry.trim() === "") return readNothing(field, entry);
  switch (field.kind) {
    case "text":
      return { value: entry };
    case "integer":
      return readInteger(entry.trim());
    case "number":
      return readNumber(entry.trim());
    case "boolean":
      return { value: entry === "true" };
    case "choice":
      return { value: field.choices[Number(entry)] };
    case "json":
      return readJson(entry);
  }
}

function readNothing(field: Field, entry: string): Value {
  if (field.required) return field.nullable ? { value: null } : { problem: "This parameter is required" };
  if (field.kind !== "text" || typeof field.standard !== "string" || field.standard === "") return "absent";
  return { value: entry }; // a default text that was cleared on purpose
}

function readInteger(entry: string): Value {
  if (!/^[+-]?\d+$/.test(entry)) return { problem: `${shown(entry)} is not a whole number` };
  const value = Number(entry);
  return Number.isSafeInteger(value) ? { value } : { problem: "This number is too large to be sent exactly" };
}

function readNumber(entry: string): Value {
  const value = Number(entry);
  return Number.isFinite(value) ? { value } : { problem: `${shown(entry)} is not a number` };
}

function readJson(entry: string): Value {
  try {
    return { value: JSON.parse(entry) as unknown };
  } catch (problem) {
    return { problem: `Not valid JSON: ${problem instanceof Error ? problem.message : "cannot be read"}` };
  }
}

function shown(entry: string): string {
  return `“${entry.length > 40 ? `${entry.slice(0, 40)}…` : entry}”`;
}

/** The field that a refusal is about, or "" if it names none.
 *
 * `where` ends with a JSON path, as in `corpus.analyze $.limit`; a parameter that is missing has no path and is
 * named by the message only. */
export function fieldAtFault(error: ErrorInfo, fields: readonly Field[]): string {
  const path = error.where.slice(error.where.lastIndexOf("$"));
  const named = /^\$\.([\w-]+)|^\$\['(.*?)'\]/.exec(path) ?? /^'(.*?)' is a required/.exec(error.message);
  const name = named?.slice(1).find((part) => part !== undefined) ?? error.where;
  return fields.some((field) => field.name === name) ? name : "";
}
