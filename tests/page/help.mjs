// Opens the help page of a node and the pack's part of the template browser, as a person does.
// Prints the texts of both as one JSON object.
//
//     node help.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL NODE PACK

import { inPage } from "./page.mjs";

/** Select the node, press its info button, and read the panel once it shows more than its title. */
async function help(page, type) {
  await page.evaluate((type) => {
    window.app.graph.clear();
    const node = window.LiteGraph.createNode(type);
    node.pos = [500, 400]; // away from the edges, where its buttons would be outside
    window.app.graph.add(node);
    window.app.canvas.selectItems([node]);
  }, type);
  await page.getByTestId("info-button").click();
  const panel = page.locator(".node-help-content");
  await panel.locator("table").first().waitFor();
  return panel.innerText();
}

async function templates(page, pack) {
  await page.getByRole("button", { name: "Templates" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText(pack, { exact: true }).first().click();
  await dialog.getByText(/siamese_/).first().waitFor();
  return dialog.innerText();
}

await inPage(async (page, type, pack) => ({
  help: await help(page, type),
  templates: await templates(page, pack),
}));
