// Uses workflows as a person does, in a real browser: drops each on ComfyUI's page, makes it small,
// presses Run, and drops a picture that it made back onto the page; all of them with classic nodes,
// then all with Nodes 2.0. Prints one JSON object: the page's version; renderer, name of the workflow,
// what was found.
//
//     node workflows.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL VALUES WORKFLOW.json ...
//
// VALUES: a JSON object, widget name -> value, set in every node that has such a widget.

import { randomUUID } from "node:crypto";
import { basename } from "node:path";

import { drop, dropWorkflow, inPage, problems, run, useNodes2 } from "./page.mjs";
import { misplaced } from "./boxes.mjs";

/** Types, widget values and links: what a person would miss. */
function graph(page) {
  return page.evaluate(() => {
    const { nodes, links } = window.app.graph.serialize();
    const kept = nodes.map(({ id, type, title, widgets_values }) => [
      id, type, title ?? "", widgets_values ?? [],
    ]);
    return JSON.stringify([kept.sort((a, b) => a[0] - b[0]), links]);
  });
}

function setValues(page, values) {
  return page.evaluate((wanted) => {
    const { graph } = window.app;
    for (const { nodes } of [graph, ...(graph.subgraphs?.values() ?? [])])
      for (const node of nodes)
        for (const widget of node.widgets ?? [])
          if (widget.name in wanted) widget.value = wanted[widget.name];
  }, values);
}

/** The last picture that a run saved, not one that it only previewed, as a file to drop. */
function lastPicture(page, outputs) {
  return page.evaluate(async (outputs) => {
    const pictures = outputs.flatMap((output) => output?.images ?? []);
    const picture = pictures.filter(({ type }) => type === "output").at(-1);
    if (!picture) throw new Error(`no picture saved, only ${JSON.stringify(pictures)}`);
    const answer = await fetch(`/view?${new URLSearchParams(picture)}`);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
    return { base64: btoa(text), name: picture.filename, type: "image/png" };
  }, outputs);
}

async function use(page, values, workflow) {
  const count = await dropWorkflow(page, workflow);
  const found = { problems: await problems(page) };
  // A dataset that is there already would be kept, and no new picture made.
  await setValues(page, { ...values, output_folder: `browser/${randomUUID()}` });
  const before = await graph(page);
  const { outputs, ...ending } = await run(page);
  Object.assign(found, ending, { misplaced: await misplaced(page) });
  if (ending.ended === "execution_success") {
    await drop(page, await lastPicture(page, outputs), count);
    found.restored = (await graph(page)) === before;
    found.problems.push(...(await problems(page)));
  }
  return found;
}

await inPage(async (page, values, ...workflows) => {
  const found = { version: await page.evaluate(() => window.__COMFYUI_FRONTEND_VERSION__) };
  for (const renderer of ["classic", "Nodes 2.0"]) {
    await useNodes2(page, renderer === "Nodes 2.0");
    found[renderer] = {};
    for (const workflow of workflows)
      found[renderer][basename(workflow, ".json")] = await use(page, JSON.parse(values), workflow);
  }
  return found;
});
