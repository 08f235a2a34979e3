// A picture to pass on: what is drawn on a canvas, with the head of its page, its title and its time above it.
import { keep } from "./csv.ts";

const LINE = 18, MARGIN = 12;
const colour = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Words in a colour of the page, as `--soft`. */
export interface Words { text: string; color: string }

/** Save a canvas below lines of words; what is too long for a line is pressed together. */
export function picture(name: string, drawn: HTMLCanvasElement, lines: Words[][]): void {
  const ratio = devicePixelRatio, above = MARGIN + LINE * lines.length;
  const whole = document.createElement("canvas");
  whole.width = drawn.width + 2 * MARGIN * ratio;
  whole.height = drawn.height + (above + MARGIN) * ratio;
  const context = whole.getContext("2d")!;
  context.fillStyle = colour("--card");
  context.fillRect(0, 0, whole.width, whole.height);
  context.drawImage(drawn, MARGIN * ratio, above * ratio);
  context.scale(ratio, ratio);
  context.textBaseline = "middle";
  lines.forEach((line, place) => {
    context.font = `${place === 0 ? "600 13px" : "12px"} system-ui`;
    let x = MARGIN;
    for (const words of line) {
      const room = whole.width / ratio - MARGIN - x, wide = context.measureText(words.text).width;
      if (room <= 0) break;
      context.fillStyle = colour(words.color);
      context.fillText(words.text, x, MARGIN / 2 + LINE * (place + 0.5), room);
      x += wide + MARGIN;
    }
  });
  whole.toBlob((blob) => blob && keep(`${name}.png`, blob), "image/png");
}

/** The head of the page: whose figures they are. */
export const head = (): Words => ({ text: document.querySelector("h1")?.textContent ?? "", color: "--text" });
