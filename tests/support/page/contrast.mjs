// How well the text of notes can be read on ComfyUI's page, for the scripts beside this one.

const LEAST = 4.5; // WCAG 2.1, 1.4.3, for text of ordinary size

/** Show the note: classic pages have no text of one outside what is shown. */
async function look(page, id) {
  await page.evaluate((id) => {
    const { canvas, graph } = window.app;
    canvas.ds.scale = 1;
    canvas.centerOnNode(graph.getNodeById(id));
    canvas.setDirty(true, true);
  }, id);
  await page.waitForFunction(
    (id) =>
      document.querySelector(`[data-node-id="${id}"]`) ||
      window.app.graph.getNodeById(id).widgets[0].element.isConnected,
    id,
  );
}

/** The texts of the note that are too close in colour to what lies behind them: [ratio, text]. */
function faintTexts(page, id) {
  return page.evaluate(([id, least]) => {
    const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

    /** Colours of CSS on each other, the last on top, as red, green and blue in 0..255. */
    const mixed = (colours) => {
      for (const colour of colours) {
        pixel.fillStyle = colour;
        pixel.fillRect(0, 0, 1, 1);
      }
      return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };

    /** Relative luminance. */
    const light = (colour) =>
      colour
        .map((part) => part / 255)
        .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
        .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);

    /** Backgrounds of the element and those around it up to `top`, the outermost first. */
    const behind = (element, top) => {
      const colour = getComputedStyle(element).backgroundColor;
      return element === top ? [colour] : [...behind(element.parentElement, top), colour];
    };

    const ratio = (element, below) => {
      const back = light(mixed(below));
      const front = light(mixed([...below, getComputedStyle(element).color]));
      return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    };

    const texts = (root) => {
      const found = [];
      const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
      while (walk.nextNode()) if (walk.currentNode.data.trim()) found.push(walk.currentNode);
      return found;
    };

    const note = window.app.graph.getNodeById(id);
    const vue = document.querySelector(`[data-node-id="${id}"]`); // with Nodes 2.0 alone
    // A classic node is painted on the canvas, with the text above it.
    const [field, under] = vue ? [vue, []] : [note.widgets[0].element, [note.bgcolor]];
    const found = texts(field);
    if (found.length < 5) return [[0, `only ${found.length} texts`]];
    return found
      .map(({ parentElement, data }) => {
        const top = vue ? document.documentElement : field;
        return [ratio(parentElement, [...under, ...behind(parentElement, top)]), data];
      })
      .filter(([value]) => value < least);
  }, [id, LEAST]);
}

/** The same of all notes. */
export async function faint(page) {
  const notes = await page.evaluate(() =>
    window.app.graph.nodes.filter(({ type }) => type === "MarkdownNote").map(({ id }) => id),
  );
  const found = [];
  for (const note of notes) {
    await look(page, note);
    found.push(...(await faintTexts(page, note)));
  }
  return found;
}
