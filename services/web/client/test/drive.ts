/* Drives the client for tests in other languages: follows streams and prints what it is given, a line of JSON each.
 *
 * `drive.ts cases FILE URL`: case n of FILE is played at URL/n; prints {name, events, error} of each.
 * `drive.ts follow URL STREAM [CURSOR [VIEW]]`: prints each event as it comes.
 * `drive.ts slow URL STREAM`: takes its time; prints how many events came, and how often the gateway was asked to hold the stream.
 * `drive.ts submit URL PLUGIN ACTION PARAMS`: submits, prints the task, and follows its stream.
 * APEX_TOKEN is shown, with APEX_TICKET by way of a ticket for each socket. What is refused is printed as {error}. */
import { readFileSync } from "node:fs";

import { ApexStream, GatewayError, valueOf, webPorts } from "../src/index.ts";
import type { Start, StreamEvent } from "../src/index.ts";

const PATIENCE = { leastMs: 1, firstMs: 10, longestMs: 100, laterMs: 0, offlineMaxMs: 60_000 };

function shown(event: StreamEvent): object {
  const place = { kind: event.kind, seq: event.seq };
  switch (event.kind) {
    case "update": {
      const value = valueOf(event);
      return { ...place, value: value instanceof Uint8Array ? { bytes: [...value] } : value };
    }
    case "progress":
      return { ...place, percentage: event.percentage, message: event.message };
    case "error":
      return { ...place, code: event.error.code };
    case "cancelled":
      return { ...place, reason: (event.receipt as { reason: string }).reason };
    default:
      return place;
  }
}

function say(value: object): void {
  const text = JSON.stringify(value, (_, each: unknown) => (typeof each === "bigint" ? Number(each) : each));
  process.stdout.write(`${text}\n`);
}

async function play(url: string, start: { from_seq?: number; cursor?: string }) {
  const client = new ApexStream(url, { patience: PATIENCE });
  const from: Start = start.cursor === undefined ? { fromSeq: start.from_seq ?? 0 } : { cursor: start.cursor };
  const events: object[] = [];
  try {
    for await (const event of client.follow("s", from)) events.push(shown(event));
    return { events };
  } catch (problem) {
    if (!(problem instanceof GatewayError)) throw problem;
    return { events, error: problem.info.code };
  }
}

async function cases(file: string, url: string): Promise<void> {
  const scripts = JSON.parse(readFileSync(file, "utf8")).cases as { name: string; start?: object }[];
  const played = scripts.map(async ({ name, start }, at) => ({ name, ...(await play(`${url}/${at}`, start ?? {})) }));
  for (const result of await Promise.all(played)) say(result);
}

function clientOf(url: string): ApexStream {
  const { APEX_TOKEN: token = "", APEX_TICKET } = process.env;
  const client = new ApexStream(url, { patience: PATIENCE, token });
  return APEX_TICKET ? new ApexStream(url, { patience: PATIENCE, token, ticket: () => client.ticket() }) : client;
}

async function follow(url: string, streamId: string, cursor = "", view = ""): Promise<void> {
  const asked = { ...(cursor && { cursor }), ...(view && { view: JSON.parse(view) }) };
  try {
    for await (const event of clientOf(url).follow(streamId, asked)) {
      say({ ...shown(event), cursor: event.cursor });
    }
  } catch (problem) {
    if (!(problem instanceof GatewayError)) throw problem;
    say({ error: problem.info.code });
  }
}

async function slow(url: string, streamId: string): Promise<void> {
  let holds = 0;
  const open = (address: string) => {
    const socket = webPorts.open(address);
    const send = socket.send.bind(socket);
    socket.send = (text) => {
      holds += Number(text.includes('"type":"hold"'));
      send(text);
    };
    return socket;
  };
  const client = new ApexStream(url, { patience: PATIENCE, ports: { ...webPorts, open } });
  let events = 0;
  for await (const event of client.follow(streamId)) {
    events += 1;
    if (event.seq % 500 === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  }
  say({ events, holds });
}

async function submit(url: string, plugin: string, action: string, params: string): Promise<void> {
  const task = await clientOf(url).submit(plugin, action, JSON.parse(params));
  say(task);
  await follow(url, task.streamId);
}

const [what, ...rest] = process.argv.slice(2);
await ({ cases, follow, slow, submit } as Record<string, (...given: string[]) => Promise<void>>)[what ?? ""]?.(...rest);
