// Bundles src into the folder named on the command line (built by default). What it writes depends
// on the sources and the versions in package-lock.json only, so it can be compared byte for byte.
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "built"));

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
await build({
  absWorkingDir: here,
  entryPoints: ["src/app.tsx", "src/app.css"],
  outdir: out,
  bundle: true,
  minify: true,
  charset: "utf8",
  format: "esm",
  target: ["chrome109", "firefox115", "safari16"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
});
for (const name of ["index.html", "icon.svg", "sdlite.webmanifest"]) {
  cpSync(join(here, "src", name), join(out, name));
}
for (const name of readdirSync(join(here, "src", "lang"))) {
  // English is in the program; the others are fetched when they are chosen.
  if (name.endsWith(".json") && name !== "en.json") {
    const words = JSON.parse(readFileSync(join(here, "src", "lang", name), "utf8"));
    writeFileSync(join(out, name), JSON.stringify(words));
  }
}

// Licences of what is inside.
const parts = ["preact", "@preact/signals", "@preact/signals-core"].map((name) => {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  return `${name} ${version} (${license})\n\n${readFileSync(join(folder, "LICENSE"), "utf8")}`;
});
writeFileSync(join(out, "LICENSES.txt"), parts.join("\n---\n\n"));

// What was built from what, so that a test without Node can tell sources that were changed since.
const sources = [
  ...readdirSync(join(here, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(here, join(entry.parentPath, entry.name)).replaceAll("\\", "/")),
  "build.mjs",
  "package.json",
  "package-lock.json",
].sort();
const digest = (name) =>
  createHash("sha256")
    .update(readFileSync(join(here, name), "utf8").replaceAll("\r\n", "\n"))
    .digest("hex");
const listed = Object.fromEntries(sources.map((name) => [name, digest(name)]));
writeFileSync(join(out, "sources.json"), JSON.stringify(listed, null, 1) + "\n");
