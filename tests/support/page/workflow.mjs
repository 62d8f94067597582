// Uses a workflow as a person does, in a real browser: drops it on ComfyUI's page, makes it small,
// presses Run, and drops a picture that it made back onto the page. Prints one JSON object.
//
//     node workflow.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL WORKFLOW.json VALUES
//
// VALUES: a JSON object, widget name -> value, set in every node that has such a widget.

import { drop, dropWorkflow, inPage, problems } from "./page.mjs";

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
    for (const node of window.app.graph.nodes)
      for (const widget of node.widgets ?? [])
        if (widget.name in wanted) widget.value = wanted[widget.name];
  }, JSON.parse(values));
}

/** Press Run; how it ended, with the message of an error, and what each node showed. */
async function run(page) {
  await page.evaluate(() => {
    window.outputs = [];
    window.app.api.addEventListener("executed", ({ detail }) => window.outputs.push(detail.output));
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
      window.app.api.addEventListener(kind, ({ detail }) => {
        window.ended = { ended: kind, message: detail.exception_message ?? "" };
      });
  });
  await page.getByTestId("queue-button").getByRole("button", { name: "Run" }).click();
  await page.waitForFunction(
    () => window.ended || Object.keys(window.app.lastNodeErrors ?? {}).length,
  );
  return page.evaluate(
    () => window.ended ?? { ended: "refused", message: JSON.stringify(window.app.lastNodeErrors) },
  );
}

/** The last picture that the run saved, not one that it only previewed, as a file to drop. */
function lastPicture(page) {
  return page.evaluate(async () => {
    const pictures = window.outputs.flatMap((output) => output?.images ?? []);
    const picture = pictures.filter(({ type }) => type === "output").at(-1);
    if (!picture) throw new Error(`no picture saved, only ${JSON.stringify(pictures)}`);
    const answer = await fetch(`/view?${new URLSearchParams(picture)}`);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
    return { base64: btoa(text), name: picture.filename, type: "image/png" };
  });
}

await inPage(async (page, workflow, values) => {
  const count = await dropWorkflow(page, workflow);
  const result = { problems: await problems(page) };
  await setValues(page, values);
  const before = await graph(page);
  Object.assign(result, await run(page));
  if (result.ended === "execution_success") {
    await drop(page, await lastPicture(page), count);
    result.restored = (await graph(page)) === before;
    result.problems.push(...(await problems(page)));
  }
  return result;
});
