/* How the page is bundled: one script, one style sheet, nothing inlined, so that `default-src 'self'` is enough. */
import { defineConfig } from "vite";

const gateway = process.env["APEX_GATEWAY_URL"] ?? "http://127.0.0.1:8080";

export default defineConfig({
  // Relative addresses: the page also works below a prefix that a proxy adds.
  base: "./",
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: false,
    reportCompressedSize: false,
    license: { fileName: "licenses.md" },
  },
  // `npm run dev` talks to a gateway that is already running.
  server: {
    proxy: {
      "/actions": gateway,
      "/tasks": gateway,
      "/stream": { target: gateway, ws: true, changeOrigin: true },
    },
  },
});
