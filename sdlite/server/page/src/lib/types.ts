// What the native API answers; docs/server.md describes it.

export type State = "queued" | "running" | "done" | "failed" | "cancelled";

export interface JobImage {
  url: string;
  seed: number;
  infotext: string;
}

export interface Job {
  id: string;
  state: State;
  model: string;
  prompt?: string;
  created: number;
  position: number | null;
  share: number;
  step: number;
  steps: number;
  seconds: number;
  seconds_left: number | null;
  width: number;
  height: number;
  seed: number;
  images: JobImage[];
  notes: string[];
  error: string | null;
  error_kind?: string | null;
  preview?: string;
}

/** A picture on the stage or in the gallery. */
export interface Picture {
  url: string;
  infotext: string;
  seed: number | null;
  created: number;
  width: number;
  height: number;
  job?: string;
  number?: number;
}

export interface Edit {
  image: string;
  strength: number;
  mask?: string;
  mask_blur?: number;
  mask_content?: string;
  only_masked?: boolean;
  invert_mask?: boolean;
}

export interface Margins {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** The body of a job: only what differs from the model's own values. */
export interface Body {
  model?: string;
  prompt: string;
  negative_prompt?: string;
  width?: number;
  height?: number;
  steps?: number;
  guidance?: number;
  sampler?: string;
  schedule?: string;
  seed?: number;
  images?: number;
  profile?: string;
  clip_skip?: number;
  edit?: Edit;
  outpaint?: Margins;
  hires?: Record<string, unknown>;
  loras?: { name: string; unet: number }[];
  controls?: { name: string; image: string; weight: number; preprocessor: string }[];
  [other: string]: unknown;
}

export interface Faster {
  kind: string;
  change: Partial<Body>;
  seconds: number;
}

export interface Plan {
  model: string;
  memory_mode: string;
  private_bytes: number;
  peak_bytes: number;
  reasons: string[];
  explanation: string;
  seconds: number | null;
  waiting: number;
  faster: Faster[];
}

export interface Model {
  name: string;
  family?: string;
  task?: string;
  width?: number;
  height?: number;
  steps?: number;
  guidance?: number;
  sampler?: string;
  licence?: string;
  controls?: string[];
  problem: string | null;
}

export interface Asset {
  name: string;
  preview?: string | null;
}
