// ComfyUI's page in a real browser, for the scripts beside this one.

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
