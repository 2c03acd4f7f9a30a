// The whole suite of the protocol's authors, as it is. Subscriptions are an option of it that the gateway does not have.
import { runConformanceTests } from "@durable-streams/server-conformance-tests"

runConformanceTests({ baseUrl: process.env.CONFORMANCE_URL, longPollTimeoutMs: 5_000 })
