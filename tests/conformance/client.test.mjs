// The JavaScript client of the protocol's authors, as it is: what it appends it reads, in every mode, and resumes.
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"
import { expect, test } from "vitest"

const url = (name) => `${process.env.CONFORMANCE_URL}/client/${name}-${Date.now()}`
const numbers = (count) => Array.from({ length: count }, (_, n) => ({ n }))

test("what an idempotent producer appends is read in order, once, and the stream ends", async () => {
  const target = await DurableStream.create({ url: url("producer"), contentType: "application/json" })
  const producer = new IdempotentProducer(target, "client-test", { maxInFlight: 4, lingerMs: 1 })

  for (const each of numbers(200)) producer.append(JSON.stringify(each))
  await producer.flush()
  await producer.close()

  const answer = await stream({ url: target.url, live: false })
  expect(await answer.json()).toEqual(numbers(200))
  expect(answer.streamClosed).toBe(true)
})

test.each(["long-poll", "sse"])("a live reader (%s) gets what is appended while it reads, and resumes where it left", async (live) => {
  const target = await DurableStream.create({ url: url(live), contentType: "application/json" })
  await target.append(JSON.stringify({ n: 0 }))
  const read = []
  let offset = "-1"

  const take = async (until) => {
    const answer = await stream({ url: target.url, offset, live })
    await new Promise((resolve) => {
      answer.subscribeJson(async (batch) => {
        read.push(...batch.items)
        offset = batch.offset
        if (read.length >= until) resolve()
      })
    })
    answer.cancel()
  }

  const first = take(3)
  await target.append(JSON.stringify({ n: 1 }))
  await target.append(JSON.stringify({ n: 2 }))
  await first
  await target.append(JSON.stringify({ n: 3 }))
  await take(4)

  expect(read).toEqual(numbers(4))
})

test("bytes come back as they were sent", async () => {
  const target = await DurableStream.create({ url: url("bytes"), contentType: "application/octet-stream" })
  const sent = Uint8Array.from({ length: 256 * 1024 }, (_, n) => (n * 7) & 255)

  await target.append(sent)

  const answer = await stream({ url: target.url, live: false })
  expect(Buffer.from(await answer.body()).equals(Buffer.from(sent))).toBe(true)
})
