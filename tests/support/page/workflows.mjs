// Uses workflows as a person does, in a real browser: drops each on ComfyUI's page, makes it small,
// presses Run, saves it, and drops the saved file and a picture that it made back onto the page; all
// of them with classic nodes, then all with Nodes 2.0. Prints one JSON object: the page's version; renderer, name of the workflow,
// what was found.
//
//     node workflows.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL VALUES WORKFLOW.json ...
//
// VALUES: a JSON object, widget name -> value, set in every node that has such a widget.

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { basename } from "node:path";

import { misplaced } from "./boxes.mjs";
import { faint } from "./contrast.mjs";
import { drop, dropWorkflow, inPage, problems, run, setValues, useNodes2 } from "./page.mjs";

/** Types, widget values and links: what a person would miss. */
function graph(page) {
  return page.evaluate(() => {
    const { nodes, links } = window.app.graph.serialize();
    const kept = nodes.map(({ id, type, title, widgets_values }) => [
      id, type, title ?? "", widgets_values ?? [],
    ]);
    const byId = (all) => all.sort((a, b) => a[0] - b[0]);
    return JSON.stringify([byId(kept), byId(links)]);
  });
}

/** What the page saves, as a file to drop. The setting Comfy.PromptFilename must be off. */
async function savedFile(page) {
  const download = page.waitForEvent("download");
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.ExportWorkflow"));
  const bytes = await readFile(await (await download).path());
  return { base64: bytes.toString("base64"), name: "saved.json", type: "application/json" };
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
  const found = { problems: await problems(page), lost: [] };
  // A dataset that is there already would be kept, and no new picture made.
  await setValues(page, { ...values, output_folder: `browser/${randomUUID()}` });
  const started = await graph(page);
  const { outputs, ...ending } = await run(page);
  Object.assign(found, ending, { misplaced: await misplaced(page), faint: await faint(page) });
  if (ending.ended === "execution_success") {
    // A run may change a seed after it: the picture holds what was run, the file what is there now.
    const kept = {
      file: [await graph(page), await savedFile(page)],
      picture: [started, await lastPicture(page, outputs)],
    };
    for (const [name, [wanted, file]] of Object.entries(kept)) {
      await drop(page, file, count);
      if ((await graph(page)) !== wanted) found.lost.push(name);
      found.problems.push(...(await problems(page)));
    }
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
