// Opens the help page of a node and the pack's part of the template browser, as a person does.
// Prints the text of the one and what the other shows of each workflow as one JSON object.
//
//     node help.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL NODE PACK NUMBER_OF_WORKFLOWS

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

/** Name -> whether its card shows a picture of its own, once that many pictures have loaded. */
async function templates(page, pack, count) {
  await page.getByRole("button", { name: "Templates" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText(pack, { exact: true }).first().click();
  const pictures = dialog.locator("img[alt^=siamese_]");
  // The page adds the pictures one after another, so that those seen first are not all.
  await pictures.nth(count - 1).waitFor();
  await page.waitForFunction(
    () => [...document.querySelectorAll("img[alt^=siamese_]")].every((img) => img.naturalWidth),
  );
  const cards = await pictures.evaluateAll((found) => found.map((img) => [img.alt, img.src]));
  return Object.fromEntries(cards.map(([name, src]) => [name, !src.includes("default-template")]));
}

await inPage(async (page, type, pack, count) => ({
  help: await help(page, type),
  templates: await templates(page, pack, Number(count)),
}));
