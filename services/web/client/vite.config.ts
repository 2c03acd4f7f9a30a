/* Two builds of one source: a module, and a script that puts everything into `apexstream`. */
import { defineConfig } from "vite";

export default defineConfig({
  build: {
    target: "es2022",
    reportCompressedSize: false,
    lib: {
      entry: "src/index.ts",
      name: "apexstream",
      formats: ["es", "iife"],
      fileName: (format) => (format === "es" ? "apexstream.js" : "apexstream.global.js"),
    },
  },
});
