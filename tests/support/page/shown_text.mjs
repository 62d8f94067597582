// Runs workflows with a node that shows a text, each twice, and reloads the page. Prints what the
// node shows each time, by its type.
//
//     node shown_text.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL NODES_2 VALUES [TYPE WORKFLOW.json] ...
//
// NODES_2: true or false. VALUES: a JSON object, widget name -> value, set in every node that has
// such a widget.

import { randomInt } from "node:crypto";

import { dropWorkflow, inPage, ready, run, setValues, useNodes2 } from "./page.mjs";

/** The texts on the page that a person can read but not change, once there is one. */
async function shown(page, type) {
  const texts = await page.waitForFunction(
    (type) => {
      const { canvas, graph } = window.app;
      const node = graph.nodes.find((node) => node.type === type);
      if (!node) return null;
      // Pages draw no fields outside of what is shown, or when small.
      canvas.ds.scale = 1;
      canvas.centerOnNode(node);
      canvas.setDirty(true, true);
      const found = [...document.querySelectorAll("textarea[readonly]")]
        .filter((field) => field.checkVisibility() && field.offsetHeight > 30)
        .map((field) => field.value);
      return found.some(Boolean) && found;
    },
    type,
    { polling: 500 },
  );
  return texts.jsonValue();
}

function empty(page) {
  return page.evaluate(() => {
    for (const field of document.querySelectorAll("textarea[readonly]")) field.value = "";
  });
}

async function use(page, values, type, workflow) {
  const found = {};
  await dropWorkflow(page, workflow);
  // With a seed that nobody had: the first run is not yet cached.
  await setValues(page, { ...values, seed: randomInt(2 ** 31) });
  for (const name of ["run", "cached"]) {
    const { ended } = await run(page);
    found[name] = { ended, shown: await shown(page, type) };
    await empty(page);
  }
  // The page notices a change at the next click, and saves its workflows a while after.
  await page.waitForFunction(
    (text) => {
      document.body.dispatchEvent(new MouseEvent("mouseup", { bubbles: true }));
      const storage = [...Object.values(localStorage), ...Object.values(sessionStorage)];
      return storage.some((saved) => saved.includes(text));
    },
    found.cached.shown[0].split("\n")[0],
    { polling: 500 },
  );
  await page.reload();
  await ready(page);
  return { ...found, reload: { shown: await shown(page, type) } };
}

await inPage(async (page, nodes2, values, ...rest) => {
  await useNodes2(page, nodes2 === "true");
  const found = {};
  for (let index = 0; index < rest.length; index += 2)
    found[rest[index]] = await use(page, JSON.parse(values), ...rest.slice(index, index + 2));
  return found;
});
