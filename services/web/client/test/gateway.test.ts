import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import { ApexStream, Gateway, GatewayError } from "../src/index.ts";

interface Heard {
  readonly url: string;
  readonly token: string;
  readonly body: Record<string, unknown>;
}

/** A gateway that refuses the first requests with a pause, then answers with a task. */
async function serving(refusals: number, act: (url: string, heard: Heard[]) => Promise<void>): Promise<void> {
  const heard: Heard[] = [];
  const server = createServer((request, response) => {
    let text = "";
    request.on("data", (part) => (text += part));
    request.on("end", () => {
      heard.push({ url: request.url ?? "", token: request.headers.authorization ?? "", body: JSON.parse(text || "{}") });
      if (heard.length > refusals) return response.writeHead(202).end(JSON.stringify({ task_id: "t", status: "waiting" }));
      const error = { code: "limit_reached", message: "too much" };
      return response.writeHead(429, { "retry-after": "0" }).end(JSON.stringify({ error }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await act(`http://127.0.0.1:${(server.address() as AddressInfo).port}/base`, heard);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

test("a submission that is refused with a pause is made again, the same one, with the token of that moment", async () => {
  let asked = 0;
  await serving(2, async (url, heard) => {
    const apex = new ApexStream(url, { token: () => Promise.resolve(`token${(asked += 1)}`) });

    const task = await apex.submit("p", "a", { n: 1 }, { tier: "high" });

    assert.equal(task.streamId, "t");
    assert.deepEqual(heard.map(({ url, token }) => [url, token]), [1, 2, 3].map((n) => ["/base/tasks", `Bearer token${n}`]));
    assert.equal(new Set(heard.map(({ body }) => body["task_id"])).size, 1);
    assert.deepEqual([heard[0]?.body["params"], heard[0]?.body["tier"]], [{ n: 1 }, "high"]);
  });
});

test("the tier is the gateway's choice unless one is named", async () => {
  await serving(0, async (url, heard) => {
    await new ApexStream(url).submit("p", "a");

    assert.ok(heard[0] !== undefined && !("tier" in heard[0].body));
  });
});

test("it is not made again for ever", async () => {
  await serving(1_000, async (url, heard) => {
    const gateway = new Gateway(`${url}/`, () => "", 3);

    await assert.rejects(gateway.tasks(1), (problem) => problem instanceof GatewayError && problem.info.code === "limit_reached");

    assert.equal(heard.length, 4);
  });
});

test("a gateway that is not there is unreachable", async () => {
  const apex = new ApexStream("http://127.0.0.1:1");

  await assert.rejects(apex.cancel("t"), (problem) => problem instanceof GatewayError && problem.info.code === "unreachable");
});
