/** Draw hatching: what is blind.  `ratio` is how many dots of the canvas a pixel has. */
export function hatch(context: CanvasRenderingContext2D, left: number, top: number, width: number, height: number, stroke: string, ratio = devicePixelRatio, apart = 7): void {
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.strokeStyle = stroke;
  context.lineWidth = ratio;
  context.beginPath();
  const gap = apart * ratio;
  for (let x = Math.floor((left - height) / gap) * gap; x < left + width; x += gap) {
    context.moveTo(x, top + height);
    context.lineTo(x + height, top);
  }
  context.stroke();
  context.restore();
}
