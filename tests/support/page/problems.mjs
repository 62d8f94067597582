// Drops a workflow on ComfyUI's page, as a person does, and prints what the page says against it.
//
//     node problems.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL WORKFLOW.json

import { dropWorkflow, inPage, problems } from "./page.mjs";

await inPage(async (page, workflow) => {
  await dropWorkflow(page, workflow);
  await page.locator(".p-dialog").waitFor();
  return { problems: await problems(page) };
});
