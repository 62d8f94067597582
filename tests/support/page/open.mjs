// Opens an address that names a workflow, as a person on a first visit does, and presses Run.
// Prints what the page then showed, and the id of the prompt that it queued, as one JSON object.
//
//     node open.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL NUMBER_OF_NODES

import { inPage, loaded, pressRun, problems } from "./page.mjs";

await inPage(async (page, count) => {
  await loaded(page, Number(count));
  const nodes = await page.evaluate(() => window.app.graph.nodes.map((node) => node.type).sort());
  const shown = { nodes, problems: await problems(page) };
  const answer = page.waitForResponse((response) => response.url().endsWith("/prompt"));
  await pressRun(page);
  const { prompt_id } = await (await answer).json();
  return { ...shown, prompt: prompt_id };
});
