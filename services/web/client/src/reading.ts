/* Reads values of unknown shape. What comes over the wire is never trusted to be what its name says. */

export type Fields = Record<string, unknown>;

export function fieldsOf(value: unknown): Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}

/** The own field `name`, never something inherited. */
export function own(fields: Fields, name: string): unknown {
  return Object.hasOwn(fields, name) ? fields[name] : undefined;
}

export function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}

export function numberOf(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

export function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** A seq or a count: a whole number from 0 that a double holds exactly. */
export function wholeOf(value: unknown): number | null {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : null;
}

/** An error as the gateway describes it in HTTP answers, frames and task states alike. */
export interface ErrorInfo {
  readonly code: string;
  readonly message: string;
  readonly where: string;
  readonly hint: string;
}

export function errorOf(value: unknown): ErrorInfo {
  const fields = fieldsOf(value);
  return {
    code: textOf(own(fields, "code")) || "unknown",
    message: textOf(own(fields, "message")) || "No reason was given",
    where: textOf(own(fields, "where")),
    hint: textOf(own(fields, "hint")),
  };
}
