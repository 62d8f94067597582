// Runs a node that shows a text, twice, and reloads the page. Prints what the node shows each time.
//
//     node shown_text.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL NODES_2 NODE INPUT VALUE
//
// NODES_2: true or false. INPUT and VALUE: what to choose before the first run.

import { inPage, newTab, ready, run, useNodes2 } from "./page.mjs";

function add(page, type, input, value) {
  return page.evaluate(
    ([type, input, value]) => {
      const node = window.LiteGraph.createNode(type);
      node.pos = [400, 200];
      node.size = [400, 260];
      window.app.graph.add(node);
      node.widgets.find(({ name }) => name === input).value = value;
    },
    [type, input, value],
  );
}

/** The fields of text on the page that a person can read, once there is one with a text in it. */
async function shown(page) {
  await page.waitForFunction(() => [...document.querySelectorAll("textarea")].some((f) => f.value));
  return page.evaluate(() =>
    [...document.querySelectorAll("textarea")]
      .filter((field) => field.checkVisibility() && field.offsetHeight > 30)
      .map((field) => field.value),
  );
}

function empty(page) {
  return page.evaluate(() => {
    for (const field of document.querySelectorAll("textarea")) field.value = "";
  });
}

await inPage(async (page, nodes2, ...node) => {
  await useNodes2(page, nodes2 === "true");
  await newTab(page);
  await add(page, ...node);
  const found = {};
  for (const name of ["run", "cached"]) {
    const { ended } = await run(page);
    found[name] = { ended, shown: await shown(page) };
    await empty(page);
  }
  // The page saves its workflows a while after a change.
  await page.waitForFunction(() =>
    [...Object.values(localStorage), ...Object.values(sessionStorage)].some((saved) =>
      saved.includes("shown_text"),
    ),
  );
  await page.reload();
  await ready(page);
  found.reload = { shown: await shown(page) };
  return found;
});
