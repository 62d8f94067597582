// The text that a node tells about its run, on the node itself.
//
// ComfyUI's pages draw such texts for their own nodes only, or take them away when a run ends. Here
// they stay until the next run, also when its result comes from the cache, and are saved with the
// workflow, so that they are there after a reload.

import { app } from "../../scripts/app.js";

const NODES = ["SiameseFilterPairs", "SiameseModelInfo", "SiameseSynthesizeDataset"];
// Not among the values of the widgets: their order decides what a saved workflow means.
const PROPERTY = "shown_text";
const MIN_HEIGHT = 60; // pixels, three lines

/** Add a field of text that nobody can edit; the function that fills it. */
function addField(node) {
  const field = document.createElement("textarea");
  field.className = "comfy-multiline-input";
  field.readOnly = true;
  Object.assign(field.style, { width: "100%", height: "100%", minHeight: `${MIN_HEIGHT}px` });
  const widget = node.addDOMWidget(PROPERTY, "shown_text", field, {
    getValue: () => field.value,
    setValue: (text) => {
      field.value = text;
    },
    getMinHeight: () => MIN_HEIGHT,
    serialize: false, // not an input of the node
  });
  widget.serialize = false;
  return (text) => {
    widget.value = text;
  };
}

/** Call `then` after the node's own method of that name. */
function after(node, name, then) {
  const own = node[name];
  node[name] = function (...rest) {
    const result = own?.apply(this, rest);
    then(...rest);
    return result;
  };
}

app.registerExtension({
  name: "siamese-diffusion.shown-text",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    const show = addField(node);
    after(node, "onConfigure", () => show(node.properties[PROPERTY] ?? ""));
    after(node, "onExecuted", (output) => {
      if (!output?.text) return;
      node.properties[PROPERTY] = output.text.join("\n");
      show(node.properties[PROPERTY]);
    });
  },
});
