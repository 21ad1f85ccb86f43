// What is to be drawn: the form, as signals that survive a reload.
import { batch, computed, signal } from "@preact/signals";
import { get } from "./api";
import { stored } from "./store";
import type { Asset, Body, Margins, Model } from "./types";

/** Settings of the form; null leaves the choice to the model. */
export interface Settings {
  model: string | null;
  prompt: string;
  negative_prompt: string;
  width: number | null;
  height: number | null;
  steps: number | null;
  guidance: number | null;
  sampler: string | null;
  schedule: string | null;
  seed: number | null;
  images: number;
  profile: string | null;
  clip_skip: number;
  strength: number;
  mask_blur: number;
  mask_content: string;
  only_masked: boolean;
  hires: number;
  loras: { name: string; unet: number }[];
}

export const FRESH: Settings = {
  model: null,
  prompt: "",
  negative_prompt: "",
  width: null,
  height: null,
  steps: null,
  guidance: null,
  sampler: null,
  schedule: null,
  seed: null,
  images: 1,
  profile: null,
  clip_skip: 1,
  strength: 0.6,
  mask_blur: 4,
  mask_content: "original",
  only_masked: false,
  hires: 1,
  loras: [],
};

const saved = stored<Settings>("settings", FRESH);
saved.value = { ...FRESH, ...saved.peek() };
export const settings = saved;

export function set(change: Partial<Settings>): void {
  settings.value = { ...settings.peek(), ...change };
}

/** A picture to continue from. */
export interface Source {
  url: string;
  width: number;
  height: number;
  /** Base64 of the file. */
  data: string;
}

/** A picture whose edges, depth or pose the drawing follows. */
export interface Guide {
  name: string;
  picture: Source;
  weight: number;
  preprocessor: string;
}

export const guide = signal<Guide | null>(null);

export const NO_MARGINS: Margins = { left: 0, top: 0, right: 0, bottom: 0 };
export const source = signal<Source | null>(null);
export const margins = signal<Margins>(NO_MARGINS);
/** Base64 of the painted mask; null when nothing is painted. */
export const mask = signal<string | null>(null);

export const extends_ = computed(() => Object.values(margins.value).some((value) => value > 0));

export function setSource(next: Source | null): void {
  batch(() => {
    source.value = next;
    margins.value = NO_MARGINS;
    mask.value = null;
    // The picture's own size is the size then.
    set({ width: null, height: null });
  });
}

export interface Choices {
  models: Model[];
  samplers: string[];
  schedules: string[];
  loras: Asset[];
  embeddings: Asset[];
  profiles: string[];
  preprocessors: string[];
}

/** Those of the last visit until the server has told: the form is there at once. */
export const choices = stored<Choices>("choices", {
  models: [],
  samplers: [],
  schedules: [],
  loras: [],
  embeddings: [],
  profiles: [],
  preprocessors: [],
});

export async function loadChoices(): Promise<void> {
  choices.value = await get<Choices>("choices");
}

/** The model that draws, as far as it is known. */
export const model = computed<Model | undefined>(() => {
  const { models } = choices.value;
  return models.find((item) => item.name === settings.value.model) ?? models[0];
});

/** The size that will be drawn. */
export const size = computed<[number, number]>(() => {
  const { width, height } = settings.value;
  const from = source.value ?? model.value;
  return [width ?? from?.width ?? 512, height ?? from?.height ?? 512];
});

/** The request as the server takes it. */
export function bodyOf(now: Settings, seed: number | null = now.seed): Body {
  const body: Body = { prompt: now.prompt };
  if (now.model) body.model = now.model;
  if (now.negative_prompt) body.negative_prompt = now.negative_prompt;
  for (const name of ["width", "height", "steps", "guidance", "sampler", "schedule"] as const) {
    if (now[name] !== null) Object.assign(body, { [name]: now[name] });
  }
  if (now.profile) body.profile = now.profile;
  if (seed !== null) body.seed = seed;
  if (now.images > 1) body.images = now.images;
  if (now.clip_skip > 1) body.clip_skip = now.clip_skip;
  if (now.loras.length) body.loras = now.loras;
  const led = guide.peek();
  if (led) {
    const { name, picture, weight, preprocessor } = led;
    body.controls = [{ name, image: picture.data, weight, preprocessor }];
  }
  const from = source.peek();
  if (from) {
    body.edit = { image: from.data, strength: now.strength };
    if (extends_.peek()) {
      body.outpaint = margins.peek();
      body.edit.strength = 1; // What is beyond the edges is new, all of it.
      delete body.images;
    } else if (mask.peek()) {
      body.edit.mask = mask.peek() as string;
      body.edit.mask_blur = now.mask_blur;
      body.edit.mask_content = now.mask_content;
      body.edit.only_masked = now.only_masked;
    }
  } else if (now.hires > 1) body.hires = { scale: now.hires };
  return body;
}

/** Settings that a picture was made with, into the form. */
export function restore(from: Partial<Body>, keepSeed = true): void {
  const next: Settings = { ...FRESH, model: settings.peek().model };
  for (const name of Object.keys(FRESH) as (keyof Settings)[]) {
    const value = from[name];
    if (name !== "hires" && value !== undefined && value !== null) {
      Object.assign(next, { [name]: value });
    }
  }
  const edit = from.edit as Partial<Settings> | undefined;
  if (edit?.strength !== undefined) next.strength = edit.strength;
  const scale = from.hires?.scale;
  if (typeof scale === "number") next.hires = scale;
  if (!keepSeed) next.seed = null;
  if (next.seed !== null && next.seed < 0) next.seed = null;
  settings.value = next;
}
