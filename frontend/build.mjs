// Builds what pages load into nodes/static/nodes; the console's static storage gives the files hashed names.
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { build, transform } from "esbuild";
import * as sass from "sass";

const OUT = new URL("../nodes/static/nodes/", import.meta.url);
const here = (path) => new URL(path, import.meta.url);

async function scripts() {
  await build({
    entryPoints: {
      main: here("src/main.ts").pathname,
      theme: here("src/theme.ts").pathname,
      map: here("src/map/index.ts").pathname,
      matrix: here("src/matrix/index.ts").pathname,
      charts: here("src/charts.ts").pathname,
      webauthn: here("src/webauthn.ts").pathname,
    },
    outdir: OUT.pathname,
    bundle: true,
    minify: true,
    format: "iife",
    target: "es2022",
    legalComments: "linked",
    logLevel: "warning",
  });
}

async function styles() {
  const { css } = sass.compile(here("src/app.scss").pathname, {
    loadPaths: [here("node_modules").pathname],
    quietDeps: true,
    silenceDeprecations: ["import"],
  });
  const { code } = await transform(css, {
    loader: "css",
    minify: true,
    target: ["chrome123", "firefox120", "safari17.5"],
  });
  await writeFile(new URL("app.css", OUT), code);
  const font = "node_modules/@fontsource-variable/inter/files/inter-latin-wght-normal.woff2";
  await copyFile(here(font), new URL("inter.woff2", OUT));
}

/** One sprite of just the icons that the templates name: `{% icon "home" %}` shows `#home`; CSS says how bold. */
async function icons() {
  const { icons: all } = JSON.parse(await readFile(here("node_modules/@iconify-json/tabler/icons.json"), "utf8"));
  const names = JSON.parse(await readFile(here("src/icons.json"), "utf8"));
  const symbols = names.map((name) => {
    if (!all[name]) throw new Error(`src/icons.json: the icon set has no ${name}`);
    return `<symbol id="${name}" viewBox="0 0 24 24">${all[name].body.replaceAll(' stroke-width="2"', "")}</symbol>`;
  });
  await writeFile(new URL("icons.svg", OUT), `<svg xmlns="http://www.w3.org/2000/svg">${symbols.join("")}</svg>\n`);
  await copyFile(here("src/favicon.svg"), new URL("favicon.svg", OUT));
}

await rm(OUT, { recursive: true, force: true });
await mkdir(OUT, { recursive: true });
await Promise.all([scripts(), styles(), icons()]);
