// Opens the pack's part of the template browser, sorted by name, as a person does. Prints [name,
// whether its card shows a picture of its own, whether all of its name can be read] of each
// workflow, in their order.
//
//     node templates.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL PACK WORKFLOW ...

import { inPage } from "./page.mjs";

await inPage(async (page, pack, ...names) => {
  await page.getByRole("button", { name: "Templates" }).first().click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText(pack, { exact: true }).first().click();
  await dialog.getByRole("combobox").last().click();
  await page.getByRole("option", { name: /^A/ }).click(); // Alphabetical, A to Z
  // The page adds the pictures one after another, so that those seen first are not all.
  await page.waitForFunction((names) => {
    const pictures = [...document.querySelectorAll("img")].filter((img) => names.includes(img.alt));
    return pictures.length >= names.length && pictures.every((img) => img.naturalWidth);
  }, names);
  return dialog.evaluate((dialog, names) => {
    /** Does nothing around the text cut it off? An ellipsis takes none of the text's own room. */
    const whole = (element) => {
      element.scrollIntoView();
      const range = document.createRange();
      range.selectNodeContents(element);
      const { right, bottom } = range.getBoundingClientRect();
      for (let around = element; around !== dialog; around = around.parentElement) {
        const edge = around.getBoundingClientRect();
        if (getComputedStyle(around).overflow !== "hidden") continue;
        if (right > edge.right + 1 || bottom > edge.bottom + 1) return false;
      }
      return true;
    };
    const titles = [...dialog.querySelectorAll("*")].filter(
      (element) => !element.childElementCount && names.includes(element.textContent.trim()),
    );
    const read = new Map(titles.map((element) => [element.textContent.trim(), whole(element)]));
    return {
      templates: [...dialog.querySelectorAll("img")]
        .filter(({ alt }) => names.includes(alt))
        .map(({ alt, src }) => [alt, !src.includes("default-template"), read.get(alt)]),
    };
  }, names);
});
