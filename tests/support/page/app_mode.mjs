// Drops workflows on ComfyUI's page, shows each as an app, and presses Run there. Prints, by the
// name of the workflow, whether the graph was shown first, the app's inputs, and how the run ended,
// once the app shows a picture.
//
//     node app_mode.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL VALUES WORKFLOW.json ...
//
// VALUES: a JSON object, widget name -> value, set in every node that has such a widget.

import { basename } from "node:path";

import { dropWorkflow, inPage, run, setValues } from "./page.mjs";

const RUNS = 3;
const PATIENCE = 45_000; // milliseconds

const switchMode = (page) =>
  page.evaluate(() => window.app.extensionManager.command.execute("Comfy.ToggleLinear"));

async function use(page, values, workflow) {
  await dropWorkflow(page, workflow);
  const graphFirst = await page.locator("#graph-canvas").isVisible();
  await setValues(page, values);
  await switchMode(page);
  const app = page.getByTestId("linear-widgets");
  await app.waitFor();
  const inputs = await app.getByTestId("builder-widget-label").allInnerTexts();
  const button = page.getByTestId("linear-run-button").locator("button", { hasText: "Run" });
  // A first visit is offered a tour, which lies above.
  const press = () => button.evaluate((element) => element.click());
  const picture = page.getByTestId("linear-center-panel").locator("img[src*='/view?']").first();
  let ended;
  // On a busy machine a first run has ended before the app listens; then it shows the next one's.
  for (let left = RUNS; left > 0; left -= 1) {
    ({ ended } = await run(page, press));
    const shown = picture.waitFor({ timeout: left > 1 ? PATIENCE : undefined });
    if (await shown.then(() => true, (error) => left > 1 ? false : Promise.reject(error))) break;
  }
  await switchMode(page);
  return { graphFirst, inputs, ended };
}

await inPage(async (page, values, ...workflows) => {
  const found = {};
  for (const workflow of workflows)
    found[basename(workflow, ".json")] = await use(page, JSON.parse(values), workflow);
  return found;
});
