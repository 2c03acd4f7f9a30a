/* JSON as coloured pieces of text, cut where it becomes too much to show. Values may be hostile. */

export interface Token {
  readonly kind: "key" | "string" | "number" | "word" | "mark";
  readonly text: string;
}

const DEPTH_MAX = 32;
const INDENT = "  ";
const CUT: Token = { kind: "mark", text: "…" };

/** On one line, at most about `charsMax` characters. */
export function compactJson(value: unknown, charsMax: number): readonly Token[] {
  return cut(tokens(value, false, 0, charsMax), charsMax);
}

/** On many lines, indented, at most about `charsMax` characters. */
export function indentedJson(value: unknown, charsMax: number): readonly Token[] {
  return cut(tokens(value, true, 0, charsMax), charsMax);
}

function cut(source: Iterable<Token>, charsMax: number): readonly Token[] {
  const kept: Token[] = [];
  let left = charsMax;
  for (const token of source) {
    if (token.text.length > left) {
      kept.push({ kind: token.kind, text: token.text.slice(0, left) }, CUT);
      break;
    }
    kept.push(token);
    left -= token.text.length;
  }
  return kept;
}

function* tokens(value: unknown, indented: boolean, depth: number, charsMax: number): Generator<Token> {
  if (typeof value !== "object" || value === null) yield scalar(value, charsMax);
  else if (depth === DEPTH_MAX) yield CUT;
  else if (Array.isArray(value)) yield* sequence("[", "]", value, indented, depth, charsMax);
  else yield* sequence("{", "}", Object.keys(value), indented, depth, charsMax, value as Record<string, unknown>);
}

function* sequence(
  open: string,
  close: string,
  items: readonly unknown[],
  indented: boolean,
  depth: number,
  charsMax: number,
  fields?: Record<string, unknown>,
): Generator<Token> {
  if (items.length === 0) return yield { kind: "mark", text: open + close };
  const inner = indented ? `\n${INDENT.repeat(depth + 1)}` : "";
  yield { kind: "mark", text: open + inner };
  for (const [index, item] of items.entries()) {
    if (index > 0) yield { kind: "mark", text: indented ? `,${inner}` : ", " };
    if (fields === undefined) yield* tokens(item, indented, depth + 1, charsMax);
    else {
      yield { kind: "key", text: quoted(item as string, charsMax) };
      yield { kind: "mark", text: ": " };
      yield* tokens(fields[item as string], indented, depth + 1, charsMax);
    }
  }
  yield { kind: "mark", text: (indented ? `\n${INDENT.repeat(depth)}` : "") + close };
}

function scalar(value: unknown, charsMax: number): Token {
  if (typeof value === "string") return { kind: "string", text: quoted(value, charsMax) };
  return { kind: typeof value === "number" || typeof value === "bigint" ? "number" : "word", text: String(value) };
}

/** Escaped more than JSON asks for: characters that hide or turn the direction of text must not fool a reader. */
function quoted(text: string, charsMax: number): string {
  const part = text.length > charsMax ? text.slice(0, charsMax) : text;
  return JSON.stringify(part).replace(/[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, escape);
}

/** Prose as it is, except for the two characters that force letters into another order than their own. */
export function honest(text: string): string {
  return text.replace(/[\u202d\u202e]/g, escape);
}

function escape(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
