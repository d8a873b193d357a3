// Unpacks Chromium once, after `npm ci`; the package has it for Linux on x86-64 only.

import fs from "node:fs";

import { folder } from "./chromium.mjs";

if (process.platform === "linux" && process.arch === "x64") {
  fs.mkdirSync(folder, { recursive: true });
  process.env.TMPDIR = folder;
  // Only in Amazon's runtimes does the package unpack the libraries that it brings for systems without a desktop.
  process.env.AWS_LAMBDA_JS_RUNTIME = "nodejs20.x";
  const { default: chromium } = await import("@sparticuz/chromium");
  await chromium.executablePath();
}
