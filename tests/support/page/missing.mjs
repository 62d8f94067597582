// Drops a workflow on ComfyUI's page, as a person does, and prints what the page says of models that
// are missing: in a dialog, or on newer pages (seen on 1.48.7) in the panel of "View details".
//
//     node missing.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL WORKFLOW.json

import { dropWorkflow, inPage } from "./page.mjs";

await inPage(async (page, workflow) => {
  await dropWorkflow(page, workflow);
  const dialog = page.locator(".p-dialog", { hasText: "Missing Models" });
  const details = page.getByRole("button", { name: "View details" });
  await dialog.or(details).first().waitFor();
  // On a first visit the template browser may lie above it.
  if (!(await dialog.isVisible())) await details.evaluate((button) => button.click());
  await page.getByText("Missing Models").first().waitFor();
  return { lines: await page.evaluate(() => document.body.innerText.split("\n")) };
});
