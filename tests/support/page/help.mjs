// Opens the help page of a node and the pack's part of the template browser, as a person does.
// Prints the text of the one and what the other shows of each workflow as one JSON object.
//
//     node help.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL NODE PACK WORKFLOW ...

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

/** Name -> whether its card shows a picture of its own, once all have loaded; in their order. */
async function templates(page, pack, names) {
  await page.getByRole("button", { name: "Templates" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText(pack, { exact: true }).first().click();
  // The page adds the pictures one after another, so that those seen first are not all.
  await page.waitForFunction((names) => {
    const pictures = [...document.querySelectorAll("img")].filter((img) => names.includes(img.alt));
    return pictures.length >= names.length && pictures.every((img) => img.naturalWidth);
  }, names);
  const cards = await dialog.locator("img").evaluateAll((all) => all.map(({ alt, src }) => [alt, src]));
  return cards
    .filter(([name]) => names.includes(name))
    .map(([name, src]) => [name, !src.includes("default-template")]);
}

await inPage(async (page, type, pack, ...names) => ({
  help: await help(page, type),
  templates: await templates(page, pack, names),
}));
