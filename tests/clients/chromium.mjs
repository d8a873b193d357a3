// Where Chromium and the libraries that it needs are unpacked, within node_modules.

import path from "node:path";

export const folder = path.join(import.meta.dirname, "node_modules", ".chromium");
export const executable = path.join(folder, "chromium");
export const environment = {
  ...process.env,
  FONTCONFIG_PATH: path.join(folder, "fonts"),
  LD_LIBRARY_PATH: path.join(folder, "al2023", "lib"),
};
