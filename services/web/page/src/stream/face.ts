/* What a chunk looks like in its row, decided apart from the document. */
import type { Update } from "../../../client/src/index.ts";
import { fieldsOf, own } from "../../../client/src/reading.ts";
import { compactJson, honest, indentedJson } from "./json-text.ts";
import type { Token } from "./json-text.ts";

export interface Face {
  /** Prose is set in the text face and keeps its line breaks; values are set in monospace on one line. */
  readonly prose: boolean;
  readonly tokens: readonly Token[];
  /** True if `wholeOf` shows more than `tokens`. */
  readonly expandable: boolean;
}

const LINE_CHARS_MAX = 400;
const PROSE_CHARS_MAX = 1_200;
const WHOLE_CHARS_MAX = 64 * 1024;

export function faceOf(chunk: Update): Face {
  if (chunk.base64) {
    return { prose: false, tokens: [plain(`${chunk.contentType}, ${bytes(chunk.data)}`)], expandable: true };
  }
  const prose = proseOf(chunk.data);
  if (prose === null) {
    return { prose: false, tokens: compactJson(chunk.data, LINE_CHARS_MAX), expandable: isContainer(chunk.data) };
  }
  const short = prose.length > PROSE_CHARS_MAX ? `${prose.slice(0, PROSE_CHARS_MAX)}…` : prose;
  return { prose: true, tokens: [plain(honest(short))], expandable: short !== prose || isContainer(chunk.data) };
}

/** The chunk in full, or as much of it as a page can sensibly show. */
export function wholeOf(chunk: Update): readonly Token[] {
  if (typeof chunk.data !== "string") return indentedJson(chunk.data, WHOLE_CHARS_MAX);
  const rest = chunk.data.length - WHOLE_CHARS_MAX;
  const text = plain(honest(chunk.data.slice(0, WHOLE_CHARS_MAX)));
  return rest > 0 ? [text, { kind: "mark", text: `\n… ${rest} more characters` }] : [text];
}

function proseOf(data: unknown): string | null {
  const text = typeof data === "string" ? data : own(fieldsOf(data), "text");
  return typeof text === "string" && text !== "" ? text : null; // nothing at all is better seen as ""
}

function isContainer(data: unknown): boolean {
  return typeof data === "object" && data !== null && Object.keys(data).length > 0;
}

function plain(text: string): Token {
  return { kind: "word", text };
}

function bytes(base64: unknown): string {
  const text = typeof base64 === "string" ? base64 : "";
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  return `${Math.max(0, (text.length / 4) * 3 - padding).toLocaleString("en")} bytes`;
}
