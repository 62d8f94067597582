// What nodes really cover on ComfyUI's page, for the scripts beside this one.

/** Each node as the page draws it, [name, x, y, width, height], and its groups, in the graph's units. */
function boxes(page) {
  return page.evaluate(() => {
    const nodes = window.app.graph.nodes.map((node) => {
      const [x, y, width, height] = node.boundingRect ?? node.getBounding();
      const drawn = document.querySelector(`[data-node-id="${node.id}"]`); // with Nodes 2.0 alone
      // Sizes from before the page zooms.
      return [node.type, x, y, drawn?.offsetWidth ?? width, drawn?.offsetHeight ?? height];
    });
    const groups = window.app.graph.groups.map(({ title, pos, size }) => [title, ...pos, ...size]);
    return { nodes, groups };
  });
}

/** The same, once two looks in a row, ten frames apart, see the same. */
async function settled(page) {
  for (let last = ""; ; ) {
    const found = await boxes(page);
    const text = JSON.stringify(found);
    if (text === last) return found;
    last = text;
    await page.evaluate(async () => {
      for (let frame = 0; frame < 10; frame += 1) await new Promise(requestAnimationFrame);
    });
  }
}

const overlap = ([, x, y, width, height], [, x2, y2, width2, height2]) =>
  x < x2 + width2 && x2 < x + width && y < y2 + height2 && y2 < y + height;

const inside = ([, x, y, width, height], [, x2, y2, width2, height2]) =>
  x2 <= x && y2 <= y && x + width <= x2 + width2 && y + height <= y2 + height2;

/** What lies on another node, or reaches out of its group; notes need no group. */
export async function misplaced(page) {
  const { nodes, groups } = await settled(page);
  const told = (box) => box.map((part) => (typeof part === "number" ? Math.round(part) : part));
  const over = nodes.flatMap((node, index) =>
    nodes.slice(0, index).filter((other) => overlap(node, other))
      .map((other) => `${told(node)} overlaps ${told(other)}`),
  );
  if (!groups.length) return over;
  const out = nodes
    .filter((node) => node[0] !== "MarkdownNote" && !groups.some((group) => inside(node, group)))
    .map((node) => `${told(node)} is in no group`);
  return [...over, ...out];
}
