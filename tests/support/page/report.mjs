// Opens a page of its own that needs no server; prints what it shows, and what went wrong, as JSON.
//
//     node report.mjs FOLDER_OF_NODE_MODULES CHROMIUM URL [SCREENSHOT]

import { createRequire } from "node:module";

const [modules, executablePath, url, screenshot] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)("playwright-core");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
try {
  const page = await browser.newPage({ viewport: { width: 1100, height: 900 } });
  const problems = [];
  const requests = [];
  page.on("console", (message) => problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => requests.push(request.url().slice(0, 80)));
  await page.goto(url, { waitUntil: "load" });
  const shown = await page.evaluate(() => ({
    title: document.title,
    text: document.body.innerText,
    sections: [...document.querySelectorAll("section")].map((section) => ({
      id: section.id,
      smoke: section.querySelectorAll(".smoke").length,
      height: section.getBoundingClientRect().height,
    })),
    pictures: document.images.length,
    undecoded: [...document.images].filter((image) => !image.naturalWidth).map((i) => i.alt),
    unnamed: [...document.images].filter((image) => !image.alt).length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  }));
  if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
  const fetched = requests.filter((address) => !address.startsWith("data:"));
  console.log(JSON.stringify({ ...shown, problems, fetched }));
} finally {
  await browser.close();
}
