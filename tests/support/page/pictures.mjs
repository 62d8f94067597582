// Takes the README's pictures: the page after a run of the workflow that its address names, and the
// pack's part of the template browser. Prints what the page says against the workflow.
//
//     node pictures.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL NUMBER_OF_NODES VALUES FOLDER PACK \
//         WORKFLOW ...
//
// VALUES: a JSON object, widget name -> value, set in every node that has such a widget.

import { join } from "node:path";

import { inPage, loaded, openTemplates, problems, run, setValues } from "./page.mjs";

const JPEG = { type: "jpeg", quality: 90 };

/** Wait until the nodes show the pictures that the run made. */
function drawn(page) {
  return page.waitForFunction(() => {
    const pictures = window.app.graph.nodes.flatMap((node) => node.imgs ?? []);
    return pictures.length > 1 && pictures.every((img) => img.complete && img.naturalWidth);
  });
}

await inPage(async (page, count, values, folder, pack, ...names) => {
  await page.setViewportSize({ width: 1600, height: 760 });
  await loaded(page, Number(count));
  await setValues(page, JSON.parse(values));
  const { ended, message } = await run(page);
  await drawn(page);
  await page.evaluate(async () => {
    await window.app.extensionManager.command.execute("Comfy.Canvas.FitView");
    for (let frame = 0; frame < 60; frame += 1) await new Promise(requestAnimationFrame);
  });
  await page.screenshot({ path: join(folder, "page.jpg"), ...JPEG });
  await page.setViewportSize({ width: 1600, height: 1000 });
  const dialog = await openTemplates(page, pack, names);
  await dialog.screenshot({ path: join(folder, "templates.jpg"), ...JPEG });
  return { ended, message, problems: await problems(page) };
});
