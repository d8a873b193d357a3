// `node browse.mjs ADDRESS`: open a page in Chromium, wait until its image is loaded or an error is thrown, and print
// what happened as JSON: a PNG of the image as it is shown, its title, the errors, and the statuses of the API's
// answers. The host example.test is this machine.

import { chromium } from "playwright-core";

import { environment, executable } from "./chromium.mjs";

const browser = await chromium.launch({
  executablePath: executable,
  env: environment,
  args: ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP example.test 127.0.0.1"],
});
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(90_000);
  const errors = [];
  const statuses = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("response", (answer) => answer.url().includes("/v1/") && statuses.push(answer.status()));
  const failed = page.waitForEvent("pageerror");
  await page.goto(process.argv[2]);
  const image = page.locator("img");
  const loaded = page.waitForFunction(() => document.querySelector("img").naturalWidth > 0);
  await Promise.race([loaded, failed]);
  const shown = errors.length ? null : (await image.screenshot()).toString("base64");
  console.log(JSON.stringify({ shown, title: await image.getAttribute("title"), errors, statuses }));
} finally {
  await browser.close();
}
