import { defineConfig } from "vite";

// Relative addresses: the page works under any prefix of the origin's path.
export default defineConfig({
  base: "./",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: { assetsDir: "studio", modulePreload: false, assetsInlineLimit: 0, target: "es2022", reportCompressedSize: true },
});
