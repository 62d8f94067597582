// ComfyUI's page in a real browser, for the scripts beside this one.

import { existsSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

const MINUTE = 60_000;
// A folder with the files of another release of the page, to be used in place of the host's own.
const RELEASE = process.env.PAGE_RELEASE;

/** In the page: count the workflows that it is loading and has loaded, in `window.loads`. */
function countLoads() {
  window.loads = { running: 0, done: 0 };
  let app;
  Object.defineProperty(window, "app", {
    get: () => app,
    set: (value) => {
      app = value;
      const load = app.loadGraphData;
      app.loadGraphData = async function (...rest) {
        window.loads.running += 1;
        try {
          return await load.apply(this, rest);
        } finally {
          window.loads.running -= 1;
          window.loads.done += 1;
        }
      };
    },
  });
}

/**
 * Wait until a workflow of that many nodes is loaded, after `before` others, and the page has drawn
 * what it says about it: it checks for missing nodes and models before a load is done.
 */
export async function loaded(page, nodes, before = 0) {
  await page.waitForFunction(
    ([nodes, before]) =>
      window.app.graph.nodes.length === nodes && window.loads.done > before && !window.loads.running,
    [nodes, before],
  );
  await page.evaluate(
    () => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))),
  );
}

/** Serve the page's own files from that folder, and all else from the host. */
async function useRelease(page, folder, url) {
  const { origin } = new URL(url);
  await page.route((address) => address.origin === origin, (route) => {
    const { pathname } = new URL(route.request().url());
    const path = join(folder, pathname === "/" ? "index.html" : decodeURIComponent(pathname));
    return existsSync(path) && statSync(path).isFile() ? route.fulfill({ path }) : route.continue();
  });
}

/**
 * Open the page, hand it to `use` once all nodes are there, and print what that returns as JSON.
 * Arguments of the command line: FOLDER_OF_NODE_MODULES CHROMIUM URL; the rest goes to `use`.
 */
export async function inPage(use) {
  const [modules, executablePath, url, ...rest] = process.argv.slice(2);
  const { chromium } = createRequire(`${modules}/`)("playwright-core");
  // Files of another release come without the host's address, and may then not talk to it.
  const args = ["--no-sandbox", "--disable-features=LocalNetworkAccessChecks"];
  const browser = await chromium.launch({ executablePath, args });
  try {
    const page = await browser.newPage({ viewport: { width: 1600, height: 900 } });
    page.setDefaultTimeout(3 * MINUTE); // for a busy machine
    await page.addInitScript(countLoads);
    if (RELEASE) await useRelease(page, RELEASE, url);
    await page.goto(url);
    await ready(page);
    console.log(JSON.stringify(await use(page, ...rest)));
  } finally {
    await browser.close();
  }
}

/** Wait until the page knows all nodes and can run them. */
export async function ready(page) {
  await page.waitForFunction(
    () => window.app?.graph && window.LiteGraph?.registered_node_types?.SiameseSampler,
  );
  await page.getByTestId("queue-button").waitFor();
}

/** Draw nodes in the classic way, or as Nodes 2.0. */
export function useNodes2(page, wanted) {
  return page.evaluate(
    (wanted) => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", wanted),
    wanted,
  );
}

/** An empty workflow in the only tab: each that stays open makes the page slower. */
export async function newTab(page) {
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.NewBlankWorkflow"));
  await page.waitForFunction(() => window.app.graph.nodes.length === 0 && !window.loads.running);
  await page.evaluate(async () => {
    const { workflow } = window.app.extensionManager;
    for (const tab of [...workflow.openWorkflows])
      if (tab !== workflow.activeWorkflow) await workflow.closeWorkflow(tab);
  });
}

/** The button itself has that name, or what it lies in. */
export function pressRun(page) {
  const name = "[data-testid=queue-button]";
  return page.locator(`button${name}, ${name} button`).first().click();
}

/** Press Run; how it ended, with the message of an error, and what its nodes showed. */
export async function run(page, press = pressRun) {
  await page.evaluate(() => {
    window.run = { outputs: [], ended: "", message: "" };
    if (window.listening) return;
    window.listening = true;
    const listen = (kind, then) =>
      window.app.api.addEventListener(kind, ({ detail }) => then(detail));
    listen("executed", ({ output }) => window.run.outputs.push(output));
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
      listen(kind, ({ exception_message = "" }) =>
        Object.assign(window.run, { ended: kind, message: exception_message }),
      );
  });
  await press(page);
  await page.waitForFunction(
    () => window.run.ended || Object.keys(window.app.lastNodeErrors ?? {}).length,
  );
  return page.evaluate(() => {
    const { ended, message, outputs } = window.run;
    if (ended) return { ended, message, outputs };
    return { ended: "refused", message: JSON.stringify(window.app.lastNodeErrors), outputs };
  });
}

/** Drop a file of that content on an empty canvas and wait for its graph. */
export async function drop(page, { base64, name, type }, nodes) {
  await newTab(page);
  const before = await page.evaluate(() => window.loads.done);
  await page.evaluate(
    ({ base64, name, type }) => {
      const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([bytes], name, { type }));
      const where = { clientX: 800, clientY: 450, bubbles: true, cancelable: true };
      const canvas = document.querySelector("#graph-canvas");
      canvas.dispatchEvent(new DragEvent("drop", { dataTransfer, ...where }));
    },
    { base64, name, type },
  );
  await loaded(page, nodes, before);
}

/** Drop the file of a workflow; its number of nodes. */
export async function dropWorkflow(page, path) {
  const text = await readFile(path, "utf-8");
  const count = JSON.parse(text).nodes.length;
  const base64 = Buffer.from(text).toString("base64");
  await drop(page, { base64, name: "workflow.json", type: "application/json" }, count);
  return count;
}

/** Set the widgets of those names, in subgraphs too. */
export function setValues(page, values) {
  return page.evaluate((wanted) => {
    const { graph } = window.app;
    for (const { nodes } of [graph, ...(graph.subgraphs?.values() ?? [])])
      for (const node of nodes)
        for (const widget of node.widgets ?? [])
          if (widget.name in wanted) widget.value = wanted[widget.name];
  }, values);
}

/** What is wrong with the graph in the page: unknown nodes, red nodes, dialogs. */
export function problems(page) {
  return page.evaluate(() => {
    const unknown = window.app.graph.nodes
      .filter((node) => !window.LiteGraph.registered_node_types[node.type] || node.has_errors)
      .map((node) => `node ${node.type}`);
    const dialogs = [...document.querySelectorAll(".p-dialog")].map((e) => e.innerText);
    return [...unknown, ...dialogs];
  });
}
