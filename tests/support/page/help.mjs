// Opens the help page of a node as a person does; prints its text as a JSON object.
//
//     node help.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL NODE

import { inPage } from "./page.mjs";

// Select the node, press its info button, and read the panel once it shows more than its title.
await inPage(async (page, type) => {
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
  return { help: await panel.innerText() };
});
