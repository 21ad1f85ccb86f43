// X/Y grids: one setting changes from left to right, another from top to bottom.
import { signal } from "@preact/signals";
import { get } from "./api";
import { cancel, picturesOf, submit, tickets } from "./jobs";
import { load } from "./pictures";
import { bodyOf, settings } from "./settings";
import type { Body, Job, Picture } from "./types";

export const AXES = ["steps", "guidance", "sampler", "seed", "strength", "words"] as const;
export type Axis = (typeof AXES)[number];
export interface Line {
  axis: Axis;
  text: string;
}

export const MOST = 36;
export const x = signal<Line>({ axis: "steps", text: "" });
export const y = signal<Line>({ axis: "guidance", text: "" });
export const cells = signal<(Picture | "wait" | "failed" | null)[]>([]);
export const across = signal<string[]>([]);
export const down = signal<string[]>([]);
export const busy = signal(false);
let stopped = false;

export const values = (line: Line): string[] =>
  line.text
    .split(",")
    .map((part) => part.trim())
    .filter(Boolean);

/** How many pictures with the form's own steps the grid is worth. */
export function work(usual = 20): number {
  const own = settings.value.steps ?? usual;
  return [x.value, y.value]
    .map((line) => {
      const found = values(line);
      if (line.axis !== "steps" || !found.length) return Math.max(found.length, 1);
      return found.reduce((sum, text) => sum + (Number(text) || own) / own, 0);
    })
    .reduce((product, factor) => product * factor, 1);
}

/** The request of a cell; throws a word for what is wrong with a value. */
export function changed(body: Body, { axis }: Line, value: string, first: string): Body {
  if (axis === "sampler") return { ...body, sampler: value };
  if (axis === "words") {
    if (!body.prompt.includes(first)) throw new RangeError(first);
    return { ...body, prompt: body.prompt.replaceAll(first, value) };
  }
  const number = Number(value);
  if (!Number.isFinite(number)) throw new RangeError(value);
  if (axis === "strength") {
    return body.edit ? { ...body, edit: { ...body.edit, strength: number } } : body;
  }
  return { ...body, [axis]: number };
}

/** Draw every cell, one after the other; throws ``RangeError`` before anything is drawn. */
export async function run(): Promise<void> {
  const [columns, rows] = [values(x.peek()), values(y.peek())];
  const base = { ...bodyOf(settings.peek()), images: 1 };
  base.seed ??= Math.floor(Math.random() * 2 ** 31);
  const wide = columns.length ? columns : [""];
  const tall = rows.length ? rows : [""];
  const bodies = tall.flatMap((row) =>
    wide.map((column) => {
      const one = column ? changed(base, x.peek(), column, columns[0] as string) : base;
      return row ? changed(one, y.peek(), row, rows[0] as string) : one;
    }),
  );
  across.value = wide;
  down.value = tall;
  cells.value = bodies.map(() => null);
  busy.value = true;
  stopped = false;
  try {
    for (const [index, body] of bodies.entries()) {
      if (stopped) break;
      put(index, "wait");
      put(index, await drawn(body));
    }
  } finally {
    busy.value = false;
    cells.value = cells.peek().map((cell) => (cell === "wait" ? null : cell));
  }
}

function put(index: number, value: Picture | "wait" | "failed"): void {
  cells.value = cells.peek().map((cell, at) => (at === index ? value : cell));
}

async function drawn(body: Body): Promise<Picture | "failed"> {
  const { job } = await submit(body);
  await new Promise<void>((resolve) => {
    const free = tickets.subscribe((now) => {
      if (!now.some((item) => item.job.id === job.id)) {
        resolve();
        queueMicrotask(() => free());
      }
    });
  });
  const last = await get<Job>(`jobs/${job.id}`);
  return picturesOf(last)[0] ?? "failed";
}

export async function stop(): Promise<void> {
  stopped = true;
  for (const ticket of tickets.peek()) await cancel(ticket);
}

/** All cells with their labels as one picture. */
export async function whole(): Promise<string> {
  const found = await Promise.all(
    cells.peek().map((cell) => (cell && typeof cell === "object" ? load(cell.url) : null)),
  );
  const sizes = found.filter((item) => item !== null);
  const width = Math.max(...sizes.map((item) => item.naturalWidth));
  const height = Math.max(...sizes.map((item) => item.naturalHeight));
  const text = Math.max(Math.round(height / 16), 12);
  const [left, top] = [text * 6, text * 2];
  const canvas = document.createElement("canvas");
  canvas.width = left + across.peek().length * width;
  canvas.height = top + down.peek().length * height;
  const pen = canvas.getContext("2d") as CanvasRenderingContext2D;
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = "#000";
  pen.font = `${text}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  across.peek().forEach((label, index) => {
    pen.fillText(label, left + index * width + text / 2, top / 2, width - text);
  });
  down.peek().forEach((label, index) => {
    pen.fillText(label, text / 2, top + (index + 0.5) * height, left - text);
  });
  found.forEach((image, index) => {
    const column = index % across.peek().length;
    const row = Math.floor(index / across.peek().length);
    if (image) pen.drawImage(image, left + column * width, top + row * height);
  });
  return canvas.toDataURL("image/png");
}
