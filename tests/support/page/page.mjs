// ComfyUI's page in a real browser, for the scripts beside this one.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

export const MINUTE = 60_000;

/**
 * Open the page, hand it to `use` once all nodes are there, and print what that returns as JSON.
 * Arguments of the command line: FOLDER_OF_NODE_MODULES CHROMIUM URL; the rest goes to `use`.
 */
export async function inPage(use) {
  const [modules, executablePath, url, ...rest] = process.argv.slice(2);
  const { chromium } = createRequire(`${modules}/`)("playwright-core");
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  try {
    const page = await browser.newPage({ viewport: { width: 1600, height: 900 } });
    await page.goto(url);
    await page.waitForFunction(
      () => window.app?.graph && window.LiteGraph?.registered_node_types?.SiameseSampler,
      null,
      { timeout: 2 * MINUTE },
    );
    await page.getByTestId("queue-button").waitFor();
    console.log(JSON.stringify(await use(page, ...rest)));
  } finally {
    await browser.close();
  }
}

/** Drop a file of that content on an empty canvas and wait for its graph. */
export async function drop(page, { base64, name, type }, nodes) {
  await page.evaluate(
    ({ base64, name, type }) => {
      window.app.graph.clear();
      const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([bytes], name, { type }));
      const where = { clientX: 800, clientY: 450, bubbles: true, cancelable: true };
      const canvas = document.querySelector("#graph-canvas");
      canvas.dispatchEvent(new DragEvent("drop", { dataTransfer, ...where }));
    },
    { base64, name, type },
  );
  await page.waitForFunction((count) => window.app.graph.nodes.length === count, nodes, {
    timeout: MINUTE,
  });
  await page.waitForTimeout(500); // what the page shows about missing things comes a little later
}

/** Drop the file of a workflow; its number of nodes. */
export async function dropWorkflow(page, path) {
  const text = await readFile(path, "utf-8");
  const count = JSON.parse(text).nodes.length;
  const base64 = Buffer.from(text).toString("base64");
  await drop(page, { base64, name: "workflow.json", type: "application/json" }, count);
  return count;
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
