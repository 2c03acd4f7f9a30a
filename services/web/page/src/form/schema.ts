/* What a form for an action's `params_schema` (JSON Schema) consists of. Plugins make schemas: any shape may occur. */
import { fieldsOf, listOf, numberOf, own, textOf } from "../../../client/src/reading.ts";
import type { Fields } from "../../../client/src/reading.ts";

export type FieldKind = "text" | "integer" | "number" | "boolean" | "choice" | "json";

export interface Field {
  readonly name: string;
  readonly kind: FieldKind;
  readonly required: boolean;
  readonly nullable: boolean;
  readonly description: string;
  /** In words, for the person who fills the form in: "integer, 0 to 100". */
  readonly expects: string;
  /** Undefined where the schema has none. */
  readonly standard: unknown;
  /** For kind "choice": JSON scalars. */
  readonly choices: readonly unknown[];
}

const REFERENCES_MAX = 16; // in a row; a longer chain is taken for a loop

/** One field for each property, required ones first, otherwise in the order of the schema. */
export function fieldsFor(paramsSchema: Fields): readonly Field[] {
  const schema = resolve(paramsSchema, paramsSchema);
  const required = new Set(listOf(own(schema, "required")));
  const fields = Object.entries(fieldsOf(own(schema, "properties"))).map(([name, property]) =>
    fieldFor(name, fieldsOf(property), required.has(name), paramsSchema),
  );
  return [...fields.filter((field) => field.required), ...fields.filter((field) => !field.required)];
}

function fieldFor(name: string, outer: Fields, required: boolean, root: Fields): Field {
  const { schema, nullable } = unwrapNull(resolve(outer, root), root);
  const choices = choicesOf(schema);
  const kind = choices.length > 0 ? "choice" : kindOf(schema);
  return {
    name,
    kind,
    required,
    nullable,
    description: textOf(own(outer, "description")) || textOf(own(schema, "description")),
    expects: expectation(kind, schema),
    standard: own(outer, "default") ?? own(schema, "default") ?? (own(outer, "default") === null ? null : undefined),
    choices,
  };
}

/** Follow `$ref` within the document; a reference that leads nowhere is an empty schema, which allows anything. */
function resolve(schema: Fields, root: Fields): Fields {
  let current = schema;
  for (let hops = 0; hops < REFERENCES_MAX; hops += 1) {
    const pointer = own(current, "$ref") ?? solePart(current);
    if (pointer === undefined) return current;
    current = typeof pointer === "string" ? at(root, pointer) : fieldsOf(pointer);
  }
  return {};
}

function solePart(schema: Fields): unknown {
  const parts = listOf(own(schema, "allOf"));
  return parts.length === 1 ? parts[0] : undefined;
}

function at(root: Fields, pointer: string): Fields {
  if (!pointer.startsWith("#")) return {};
  const steps = pointer.slice(1).split("/").slice(1);
  const names = steps.map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
  return names.reduce<Fields>((part, name) => fieldsOf(own(part, name)), root);
}

/** `T | null`, however it is spelt, is T and the word that null is allowed too. */
function unwrapNull(schema: Fields, root: Fields): { schema: Fields; nullable: boolean } {
  const options = listOf(own(schema, "anyOf") ?? own(schema, "oneOf")).map((option) => resolve(fieldsOf(option), root));
  const rest = options.filter((option) => own(option, "type") !== "null");
  if (rest.length === 1) return { schema: rest[0] ?? {}, nullable: rest.length < options.length };
  const types = listOf(own(schema, "type"));
  const named = types.filter((type) => type !== "null");
  if (named.length === 1) return { schema: { ...schema, type: named[0] }, nullable: named.length < types.length };
  return { schema, nullable: rest.length < options.length || named.length < types.length };
}

function choicesOf(schema: Fields): readonly unknown[] {
  const fixed = own(schema, "const");
  const choices = fixed === undefined ? listOf(own(schema, "enum")) : [fixed];
  return choices.every((choice) => typeof choice !== "object" || choice === null) ? choices : [];
}

function kindOf(schema: Fields): FieldKind {
  switch (own(schema, "type")) {
    case "string":
      return "text";
    case "integer":
    case "number":
    case "boolean":
      return own(schema, "type") as FieldKind;
    default:
      return "json";
  }
}

const NOUNS: Record<FieldKind, string> = {
  text: "text",
  integer: "whole number",
  number: "number",
  boolean: "yes or no",
  choice: "one of the list",
  json: "JSON",
};

function expectation(kind: FieldKind, schema: Fields): string {
  const type = textOf(own(schema, "type"));
  const noun = kind === "json" && (type === "array" || type === "object") ? `JSON ${type}` : NOUNS[kind];
  return [noun, limits(schema), itemsOf(schema)].filter(Boolean).join(", ");
}

function limits(schema: Fields): string {
  const least = numberOf(own(schema, "minimum") ?? own(schema, "minLength") ?? own(schema, "minItems"));
  const most = numberOf(own(schema, "maximum") ?? own(schema, "maxLength") ?? own(schema, "maxItems"));
  const unit = bound(schema, "Length") ? "character" : bound(schema, "Items") ? "item" : "";
  const of = (count: number) => (unit ? ` ${unit}${count === 1 ? "" : "s"}` : "");
  if (least !== null && most !== null) return `${least} to ${most}${of(most)}`;
  if (least !== null) return `at least ${least}${of(least)}`;
  return most === null ? "" : `at most ${most}${of(most)}`;
}

function bound(schema: Fields, what: string): boolean {
  return own(schema, `min${what}`) !== undefined || own(schema, `max${what}`) !== undefined;
}

function itemsOf(schema: Fields): string {
  const type = textOf(own(fieldsOf(own(schema, "items")), "type"));
  return type && `each item: ${type}`;
}
