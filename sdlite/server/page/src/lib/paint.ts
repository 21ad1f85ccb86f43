// The mask: a canvas as large as the picture, with brush, eraser and undo.
import { effect, signal } from "@preact/signals";
import { load } from "./pictures";
import { mask, source } from "./settings";

export const COLOUR = "#e8590c";
const KEPT_BYTES = 64 << 20;

export const canvas = signal<HTMLCanvasElement | null>(null);
export const erasing = signal(false);
/** Width of the brush in pixels of the picture. */
export const brush = signal(24);
export const steps = signal<ImageData[]>([]);

const context = (): CanvasRenderingContext2D | null =>
  canvas.peek()?.getContext("2d", { willReadFrequently: true }) ?? null;

export function begin(): void {
  effect(() => {
    // Another picture has another mask.
    const from = source.value;
    steps.value = [];
    if (!from) {
      canvas.value = null;
      return;
    }
    const next = document.createElement("canvas");
    next.width = from.width;
    next.height = from.height;
    canvas.value = next;
    brush.value = Math.max(Math.round(Math.min(from.width, from.height) / 8), 4);
  });
}

/** Remember what is there, before it is painted over. */
export function keep(): void {
  const pen = context();
  if (!pen) return;
  const { width, height } = pen.canvas;
  const most = Math.max(Math.floor(KEPT_BYTES / (width * height * 4)), 1);
  steps.value = [...steps.peek(), pen.getImageData(0, 0, width, height)].slice(-most);
}

export function line(from: [number, number], to: [number, number]): void {
  const pen = context();
  if (!pen) return;
  pen.globalCompositeOperation = erasing.peek() ? "destination-out" : "source-over";
  pen.strokeStyle = COLOUR;
  pen.lineWidth = brush.peek();
  pen.lineCap = "round";
  pen.beginPath();
  pen.moveTo(...from);
  // A line of no length is not drawn by every browser, a dot is.
  pen.lineTo(to[0], to[1] + (from[0] === to[0] && from[1] === to[1] ? 0.01 : 0));
  pen.stroke();
}

/** Hand what is painted to the form. */
export function done(): void {
  const pen = context();
  if (!pen) return;
  const { width, height } = pen.canvas;
  const pixels = pen.getImageData(0, 0, width, height).data;
  let painted = false;
  for (let index = 3; index < pixels.length && !painted; index += 4) painted = pixels[index] !== 0;
  if (!painted) {
    mask.value = null;
    return;
  }
  const whole = document.createElement("canvas");
  whole.width = width;
  whole.height = height;
  const ink = whole.getContext("2d") as CanvasRenderingContext2D;
  ink.drawImage(pen.canvas, 0, 0);
  ink.globalCompositeOperation = "source-in";
  ink.fillStyle = "#fff";
  ink.fillRect(0, 0, width, height);
  ink.globalCompositeOperation = "destination-over";
  ink.fillStyle = "#000";
  ink.fillRect(0, 0, width, height);
  mask.value = whole.toDataURL("image/png").replace(/^[^,]*,/, "");
}

/** Paint a mask of before: base64, white where it is painted. */
export async function restore(data: string): Promise<void> {
  const image = await load(`data:image/png;base64,${data}`);
  const pen = context();
  if (!pen) return;
  const { width, height } = pen.canvas;
  pen.drawImage(image, 0, 0, width, height);
  const whole = pen.getImageData(0, 0, width, height);
  for (let index = 0; index < whole.data.length; index += 4) {
    whole.data[index + 3] = whole.data[index] ?? 0;
  }
  pen.putImageData(whole, 0, 0);
  // White becomes the colour of the brush.
  pen.globalCompositeOperation = "source-in";
  pen.fillStyle = COLOUR;
  pen.fillRect(0, 0, width, height);
  done();
}

export function undo(): void {
  const last = steps.peek().at(-1);
  if (!last) return;
  steps.value = steps.peek().slice(0, -1);
  context()?.putImageData(last, 0, 0);
  done();
}

export function clear(): void {
  const pen = context();
  if (!pen) return;
  keep();
  pen.clearRect(0, 0, pen.canvas.width, pen.canvas.height);
  done();
}

export function invert(): void {
  const pen = context();
  if (!pen) return;
  keep();
  pen.globalCompositeOperation = "source-out";
  pen.fillStyle = COLOUR;
  pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
  done();
}
