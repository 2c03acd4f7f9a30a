// The chat libraries' own clients against a gateway that runs; each case prints what it came to as one line of JSON.
import { existsSync, writeFileSync } from "node:fs"

import { HttpAgent } from "@ag-ui/client"
import { Chat } from "@ai-sdk/react"
import { WorkflowChatTransport } from "@ai-sdk/workflow/client"
import { DefaultChatTransport } from "ai"
import { EventSource } from "eventsource"

const [url, what, given = "{}"] = process.argv.slice(2)
const { gate, ...params } = JSON.parse(given)
const api = `${url}/chat/probe/converse`
const body = gate ? { ...params, gate } : params

function chat(id, messages = []) {
  const errors = []
  const made = new Chat({ id, messages, transport: new DefaultChatTransport({ api, body }), onError: (error) => errors.push(error.message) })
  return { made, errors }
}

const shown = ({ made, errors }) => ({ status: made.status, errors, messages: made.messages })

async function until(holds) {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 20))
}

const textOf = (message) => (message?.parts ?? []).filter(({ type }) => type === "text").map(({ text }) => text).join("")

const cases = {
  /** One message, answered to its end. */
  async converse() {
    const one = chat("whole")
    await one.made.sendMessage({ text: "hello" })
    return shown(one)
  },

  /** The page is loaded again while the answer is written: a new chat of that id resumes it, and a third finds nothing. */
  async resume() {
    const id = `resumed-${process.pid}`
    const first = chat(id)
    const sent = first.made.sendMessage({ text: "hello" })
    await until(() => textOf(first.made.messages.at(-1)).includes("you said "))
    const second = chat(id, [first.made.messages[0]])
    const resumed = second.made.resumeStream()
    await until(() => textOf(second.made.messages.at(-1)).includes("you said "))
    const before = textOf(second.made.messages.at(-1))
    writeFileSync(gate, "")
    await Promise.all([sent, resumed])
    const third = chat(id, [first.made.messages[0]])
    while ((await fetch(`${api}/${id}/stream`)).status !== 204) await new Promise((resolve) => setTimeout(resolve, 50))
    await third.made.resumeStream()
    return { before, first: shown(first), second: shown(second), third: shown(third) }
  },

  /** The connection breaks in the middle, twice; the transport comes back by itself. */
  async torn() {
    let asked = 0
    const torn = async (address, init) => {
      const answer = await fetch(address, init)
      asked += 1
      if (asked > 2) {
        writeFileSync(gate, "")
        return answer
      }
      let seen = ""
      const tear = new TransformStream({
        transform(chunk, controller) {
          seen += new TextDecoder().decode(chunk)
          controller.enqueue(chunk)
          if (seen.includes("you said ")) controller.error(new Error("torn"))
        },
      })
      return new Response(answer.body.pipeThrough(tear), { status: answer.status, headers: answer.headers })
    }
    const errors = []
    const transport = new WorkflowChatTransport({ api, fetch: torn })
    const made = new Chat({ transport, onError: (error) => errors.push(error.message) })
    await made.sendMessage({ text: "hello" }, { body })
    return { asked, ...shown({ made, errors }) }
  },

  /** The answer is written anew by a second attempt: what the first one wrote is gone. */
  async falter() {
    const one = chat(`faltered-${process.pid}`)
    const sent = one.made.sendMessage({ text: "hello" })
    await until(() => textOf(one.made.messages.at(-1)).includes("you said "))
    if (!existsSync(gate)) writeFileSync(gate, "")
    await sent
    return shown(one)
  },

  /** A run of an agent; and the same run asked for again by another client. */
  async agent() {
    const told = []
    for (let round = 0; round < 2; round += 1) {
      const agent = new HttpAgent({ url: `${url}/ag-ui/probe/converse`, threadId: "thread", initialMessages: [{ id: "m1", role: "user", content: "hello" }] })
      const events = []
      let seen = ""
      const ran = agent.runAgent(
        { runId: `run-${process.pid}`, forwardedProps: body },
        {
          onEvent: ({ event }) => void events.push(event.type),
          onTextMessageContentEvent: ({ event }) => {
            seen += event.delta
            if (gate && seen.includes("you said ") && !existsSync(gate)) writeFileSync(gate, "")
          },
        },
      )
      const { result } = await ran.catch((error) => ({ result: String(error) }))
      told.push({ result, events, messages: agent.messages })
    }
    return told
  },

  /** A browser's EventSource reads a stream to its end and does not come back for ever. */
  async events() {
    const source = new EventSource(`${url}/streams/${params.stream}/events`)
    const seqs = []
    const awake = setInterval(() => {}, 1_000) // its timers do not keep Node from ending
    await new Promise((resolve) => {
      source.onmessage = ({ data }) => seqs.push(JSON.parse(data).seq)
      source.onerror = () => source.readyState === EventSource.CLOSED && resolve()
    })
    clearInterval(awake)
    return { seqs }
  },
}

console.log(JSON.stringify(await cases[what]()))
process.exit(0)
