import assert from "node:assert/strict";
import { test } from "node:test";

import { fieldsFor } from "../src/form/schema.ts";
import type { Field } from "../src/form/schema.ts";
import { fieldAtFault, initialEntry, readEntries } from "../src/form/values.ts";

function fieldOf(property: object, required = false): Field {
  return fieldsFor({ properties: { it: property }, required: required ? ["it"] : [] })[0] ?? assert.fail("no field");
}

function read(property: object, entry: string, required = false): unknown {
  return readEntries([fieldOf(property, required)], new Map([["it", entry]]));
}

test("required parameters come first, all others in the order of the schema", () => {
  const properties = { b: { type: "string" }, a: { type: "integer" }, c: {} };

  const fields = fieldsFor({ properties, required: ["a"] });

  assert.deepEqual(
    fields.map((field) => field.name),
    ["a", "b", "c"],
  );
});

test("each type of the schema has its kind of field", () => {
  const kinds = [
    { type: "string" },
    { type: "integer" },
    { type: "number" },
    { type: "boolean" },
    { enum: [1, "x"] },
    { type: "array" },
    {},
  ];

  assert.deepEqual(
    kinds.map((property) => fieldOf(property).kind),
    ["text", "integer", "number", "boolean", "choice", "json", "json"],
  );
});

test("an optional type is that type and may be null, however it is spelt", () => {
  for (const property of [
    { anyOf: [{ type: "integer" }, { type: "null" }] },
    { oneOf: [{ type: "null" }, { type: "integer" }] },
    { type: ["integer", "null"] },
  ]) {
    const field = fieldOf(property);
    assert.deepEqual([field.kind, field.nullable], ["integer", true]);
  }
});

test("references within the schema are followed", () => {
  const schema = { properties: { it: { $ref: "#/$defs/Colour" } }, $defs: { Colour: { enum: ["red", "blue"] } } };

  assert.deepEqual(fieldsFor(schema)[0]?.choices, ["red", "blue"]);
});

test("a reference that leads nowhere or in a circle is a field for JSON", () => {
  const circle = { properties: { it: { $ref: "#/$defs/A" } }, $defs: { A: { $ref: "#/$defs/A" } } };

  assert.equal(fieldsFor(circle)[0]?.kind, "json");
  assert.equal(fieldOf({ $ref: "#/__proto__/toString" }).kind, "json");
});

test("a schema of any other shape is a form without fields", () => {
  for (const schema of [{}, { properties: 3 }, { properties: [] }]) assert.deepEqual(fieldsFor(schema), []);
});

test("bounds are said in words", () => {
  assert.equal(fieldOf({ type: "integer", minimum: 0, maximum: 9 }).expects, "whole number, 0 to 9");
  assert.equal(fieldOf({ type: "string", minLength: 1 }).expects, "text, at least 1 character");
  assert.equal(fieldOf({ type: "array", items: { type: "string" } }).expects, "JSON array, each item: string");
});

test("a default is what the control holds at first", () => {
  assert.equal(initialEntry(fieldOf({ type: "integer", default: 3 })), "3");
  assert.equal(initialEntry(fieldOf({ enum: ["a", "b"], default: "b" })), "1");
  assert.equal(initialEntry(fieldOf({ type: "array", default: [] })), "[]");
  assert.equal(initialEntry(fieldOf({ type: "string", default: null })), "");
});

test("entries become values of their type", () => {
  assert.deepEqual(read({ type: "string" }, " a "), { params: { it: " a " } });
  assert.deepEqual(read({ type: "integer" }, " -12 "), { params: { it: -12 } });
  assert.deepEqual(read({ type: "number" }, "1e-3"), { params: { it: 0.001 } });
  assert.deepEqual(read({ type: "boolean" }, "false"), { params: { it: false } });
  assert.deepEqual(read({ enum: [1, null] }, "1"), { params: { it: null } });
  assert.deepEqual(read({ type: "object" }, '{"a": [1]}'), { params: { it: { a: [1] } } });
});

test("what is left empty is left to the action, unless it is required", () => {
  assert.deepEqual(read({ type: "integer" }, ""), { params: {} });
  assert.deepEqual(read({ type: "string", default: "x" }, ""), { params: { it: "" } });
  assert.ok("problems" in (read({ type: "string" }, " ", true) as object));
});

test("what cannot be sent is a problem of its field", () => {
  for (const [type, entry] of [
    ["integer", "1.5"],
    ["integer", "99999999999999999999"],
    ["number", "ten"],
    ["array", "[1,"],
  ]) {
    assert.ok("problems" in (read({ type }, entry ?? "") as object), `${type} ${entry}`);
  }
});

test("a parameter may have a name that objects have already", () => {
  const fields = fieldsFor(JSON.parse('{"properties": {"__proto__": {"type": "string"}}}'));

  const reading = readEntries(fields, new Map([["__proto__", "x"]]));

  assert.equal(JSON.stringify(reading), '{"params":{"__proto__":"x"}}');
});

test("a refusal is shown at the field that it names", () => {
  const fields = fieldsFor({ properties: { limit: {}, "odd name": {}, path: {} } });
  const at = (where: string, message = "") => fieldAtFault({ code: "", message, where, hint: "" }, fields);

  assert.equal(at("corpus.analyze $.limit"), "limit");
  assert.equal(at("corpus.analyze $.limit[0].x"), "limit");
  assert.equal(at("corpus.analyze $['odd name']"), "odd name");
  assert.equal(at("limit"), "limit");
  assert.equal(at("corpus.analyze", "'path' is a required property"), "path");
  assert.equal(at("corpus.analyze $.other"), "");
});
