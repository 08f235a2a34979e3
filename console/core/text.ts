import { type Key, en } from "../text/en.ts";
import { zh } from "../text/zh.ts";
import { kept } from "./state.ts";

export const chinese = () => kept("language", navigator.language.startsWith("zh") ? "zh" : "en") === "zh";

/** A sentence in the person's language, with values in braces. */
export function say(key: Key, values: Record<string, string | number> = {}): string {
  const sentence = (chinese() ? zh : en)[key];
  return sentence.replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));
}
