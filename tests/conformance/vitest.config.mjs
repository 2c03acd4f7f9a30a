// Times are of a machine that does other work as well: what is slow is not wrong.
export default { test: { include: ["*.test.mjs"], testTimeout: 60_000, hookTimeout: 60_000 } }
