/** Shapes of the API's answers, as far as the page reads them. */

export interface Schema {
  type?: string;
  title?: string;
  description?: string;
  default?: unknown;
  enum?: (string | number)[];
  anyOf?: Schema[];
  items?: Schema;
  prefixItems?: Schema[];
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  multipleOf?: number;
  minLength?: number;
  maxLength?: number;
  minItems?: number;
  maxItems?: number;
  examples?: unknown[];
  format?: string;
  "x-stage"?: string;
  "x-advanced"?: boolean;
  "x-unit"?: string;
  "x-widget"?: string;
  "x-media"?: string;
  "x-labels"?: string[];
  "x-keyframe"?: string;
}

export interface ObjectSchema {
  properties: Record<string, Schema>;
  required?: string[];
}

export interface MethodSummary {
  id: string;
  title: string;
  summary: string;
  paper: { arxiv?: string; title?: string; venue?: string } | null;
  version: number;
  times?: { p50_seconds: number; p95_seconds: number; jobs: number } | null;
}

export interface Method extends MethodSummary {
  documentation: string;
  stages: string[];
  inputs: ObjectSchema;
  params: ObjectSchema;
}

export interface Asset {
  id: string;
  name: string;
  media_type: string;
  size_bytes: number;
  sha256: string;
  facts: { kind?: string; width?: number; height?: number; fps?: number; frames?: number; duration_seconds?: number };
}

export interface Stage {
  name: string;
  state: "pending" | "running" | "done" | "skipped";
  seconds: number | null;
  step: number | null;
  steps: number | null;
  cache: "hit" | "miss" | null;
  saved_frame_evals: number | null;
  saved_seconds: number | null;
}

export interface FieldError {
  pointer?: string;
  code: string;
  message: string;
}

export interface JobError {
  code: string;
  title: string;
  detail: string;
  hint: string;
  retryable: boolean;
  stage: string | null;
  log_id: string | null;
  errors: FieldError[];
}

export interface Output {
  name: string;
  media_type: string;
  size_bytes: number;
  width: number | null;
  height: number | null;
  frames: number | null;
  fps: number | null;
  duration_seconds: number | null;
  url: string;
}

/** What the page leaves in a job's metadata, so that any browser can show the job next to its source. */
export interface Note {
  video: string;
  name: string;
  start: number;
  end?: number;
  target: string;
  source: string;
  params: Record<string, unknown>;
  files?: Record<string, string[]>;
}

export interface Job {
  id: string;
  version: number;
  state: string;
  method: string;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  queue: { position: number; reason: string | null };
  eta: { start: string | null; finish: string | null; p90_finish?: string | null };
  progress: { fraction: number; stage: string | null; stages: Stage[] };
  attempts: { n: number; ended: string | null }[];
  placement: { worker: string; device: string | null; checkpoint: string | null } | null;
  outputs: Output[];
  usage: { queue_seconds: number; wall_seconds: number; frame_evals: number; saved_frame_evals: number };
  error: JobError | null;
  warnings: { code: string; message: string }[];
  retry_of: string | null;
  batch?: Place | null;
  receipt?: string | null;
  preview?: Preview | null;
  metadata: { studio?: Note };
}

/** Where a job stands in its batch. */
export interface Place {
  id: string;
  index: number;
  video: number | null;
  prompt: number | null;
  method: number | null;
}

/** What an edit would take; numbers are null when nothing is known yet. */
export interface Estimate {
  seconds: number | null;
  p90_seconds: number | null;
  stages: { name: string; seconds: number; cache: "hit" | "miss" | null }[];
  queue: { position: number; wait_seconds: number | null; workers: number };
  work: { frames: number };
}

/** One line of a job's log: words and numbers, no free text. */
export interface LogLine {
  id: string;
  at: string;
  level: "info" | "warning" | "error";
  event: string;
  attempt: number;
  worker: string | null;
  stage: string | null;
  facts: Record<string, string | number | boolean | null>;
}

/** What the edit looked like some steps ago. */
export interface Preview {
  url: string;
  step: number;
  steps: number;
  width: number;
  height: number;
}

export interface BatchBody {
  videos: { video: AssetRef; trim?: { start: number; end?: number }; source?: string }[];
  prompts: { target: string }[];
  methods: { method: string; params?: Record<string, unknown> }[];
  params?: Record<string, unknown>;
  metadata?: Record<string, unknown>;
}

export interface Batch {
  id: string;
  version: number;
  state: string;
  created_at: string;
  finished_at: string | null;
  total: number;
  created: number;
  counts: Record<string, number>;
  progress: { fraction: number; ended: number };
  matrix: BatchBody | null;
  metadata: { studio_batch?: { names?: string[] } };
  eta: { start: string | null; finish: string | null };
}

export interface BatchPage {
  data: Batch[];
  next_cursor: string | null;
}

export interface JobPage {
  data: Job[];
  next_cursor: string | null;
}

export interface AssetRef {
  asset: string;
}

export interface EditBody {
  method: string;
  input: { video: { asset: string }; trim?: { start: number; end?: number }; files?: Record<string, AssetRef | AssetRef[]> };
  prompt: Record<string, string>;
  params: Record<string, unknown>;
  output?: { preview: { every_steps: number; max_px: number } };
  metadata?: { studio: Note };
}

/** The result itself; what lies beside it are figures. */
export const isPicture = ({ media_type }: Output): boolean => /^(video|image)\//.test(media_type);

export const ENDED = ["succeeded", "failed", "canceled", "expired"];
export const ended = (job: Job): boolean => ENDED.includes(job.state);
