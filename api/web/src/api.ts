/** Every request of the page. Addresses are relative, so that it works under any prefix of the origin's path. */

import { spoken, titled } from "./text";
import type { Asset, Batch, BatchBody, BatchPage, EditBody, Estimate, FieldError, Job, JobPage, LogLine, Method, MethodSummary } from "./types";

const KEY = "refilm.key";

/** A refusal of the server, with what its problem document says. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
    readonly hint = "",
    readonly errors: FieldError[] = [],
    readonly retryAfter = 0,
  ) {
    super(detail);
  }
}

export const apiKey = (): string => localStorage.getItem(KEY) ?? "";
export const setApiKey = (key: string): void => localStorage.setItem(KEY, key.trim());
/** `/v1/…` of an answer as an address relative to the page. */
export const relative = (path: string): string => path.replace(/^\//, "");

async function refusal(response: Response): Promise<Refusal> {
  const body = await response.json().catch(() => ({}));
  const detail = body.detail || body.title || response.statusText || "no reason given";
  return new Refusal(response.status, body.code ?? "unknown", detail, body.hint ?? "", body.errors ?? [], body.retry_after ?? 0);
}

export async function request(path: string, options: RequestInit = {}): Promise<Response> {
  const headers = new Headers(options.headers);
  const key = apiKey();
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let response: Response;
  try {
    response = await fetch(relative(path), { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refusal(0, "unreachable", "The service does not answer.", "Is it running?");
  }
  if (!response.ok && response.status !== 304) throw await refusal(response);
  return response;
}

async function json<T>(path: string, options?: RequestInit): Promise<T> {
  return (await request(path, options)).json() as Promise<T>;
}

const post = (body?: unknown, headers: Record<string, string> = {}): RequestInit => ({
  method: "POST",
  headers: body === undefined ? headers : { "Content-Type": "application/json", ...headers },
  body: body === undefined ? undefined : JSON.stringify(body),
});

const once = (): Record<string, string> => ({
  "Idempotency-Key": [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join(""),
});

export async function methods(): Promise<MethodSummary[]> {
  const { data } = await json<{ data: MethodSummary[] }>("v1/methods");
  data.forEach(({ id, title }) => names.set(id, titled(title, id).name));
  return data;
}
const names = new Map<string, string>();
/** A method's name as its authors write it, once the list of methods has come. */
export const methodName = (id: string): string => names.get(id) ?? spoken(id);
const described = new Map<string, Promise<Method>>();
export function method(id: string): Promise<Method> {
  let found = described.get(id);
  if (!found) {
    found = json<Method>(`v1/methods/${encodeURIComponent(id)}`);
    found.catch(() => described.delete(id));
    described.set(id, found);
  }
  return found;
}
export interface Code {
  hint: string | null;
  fixed_by: string;
}
export const code = (name: string): Promise<Code> => json(`v1/errors/${encodeURIComponent(name)}`);
export const asset = (id: string): Promise<Asset> => json(`v1/assets/${id}`);
export const createEdit = (body: EditBody): Promise<Job> => json("v1/edits", post(body, once()));

/** Jobs of a batch have no note of their own: what it would say stands in the batch. */
export async function enriched(job: Job): Promise<Job> {
  const place = job.batch;
  if (job.metadata.studio || !place || place.video === null) return job;
  const matrix = (await known(place.id).catch(() => null))?.matrix;
  const [clip, words, how] = [matrix?.videos[place.video], matrix?.prompts[place.prompt ?? 0], matrix?.methods[place.method ?? 0]];
  if (!matrix || !clip || !words) return job;
  const studio = {
    video: clip.video.asset,
    name: "",
    start: clip.trim?.start ?? 0,
    target: words.target,
    source: clip.source ?? "",
    params: { ...matrix.params, ...how?.params },
  };
  return { ...job, metadata: { ...job.metadata, studio } };
}
const matrices = new Map<string, Promise<Batch>>();
/** A batch whose matrix is wanted, which never changes. */
function known(id: string): Promise<Batch> {
  let found = matrices.get(id);
  if (!found) {
    found = batch(id);
    found.catch(() => matrices.delete(id));
    matrices.set(id, found);
  }
  return found;
}

export const estimate = (body: string, signal: AbortSignal): Promise<Estimate> =>
  json("v1/estimates", { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });

export const job = async (id: string): Promise<Job> => enriched(await json<Job>(`v1/jobs/${id}`));
export const cancel = (id: string): Promise<Job> => json(`v1/jobs/${id}/cancel`, post());
export const retry = (id: string): Promise<Job> => json(`v1/jobs/${id}/retry`, post(undefined, once()));
export const remove = (id: string): Promise<Response> => request(`v1/jobs/${id}`, { method: "DELETE" });
export interface Wanted {
  states?: string[];
  cursor?: string | null;
  limit?: number;
  batch?: string;
}
export async function jobs({ states = [], cursor = null, limit = 24, batch: within }: Wanted): Promise<JobPage> {
  const query = new URLSearchParams({ limit: String(limit) });
  states.forEach((state) => query.append("state", state));
  if (cursor) query.set("cursor", cursor);
  const page = await json<JobPage>(`${within ? `v1/batches/${within}` : "v1"}/jobs?${query}`);
  return { ...page, data: await Promise.all(page.data.map(enriched)) };
}

/** The whole log so far, oldest first. */
export async function logs(id: string): Promise<LogLine[]> {
  const lines: LogLine[] = [];
  for (let after = ""; ; ) {
    const page = await json<{ data: LogLine[]; next_cursor: string | null }>(`v1/jobs/${id}/logs?limit=200${after ? `&after=${encodeURIComponent(after)}` : ""}`);
    lines.push(...page.data);
    if (page.data.length < 200 || !page.next_cursor) return lines;
    after = page.next_cursor;
  }
}

export const createBatch = (body: BatchBody): Promise<Batch> => json("v1/batches", post(body, once()));
export const batch = (id: string): Promise<Batch> => json(`v1/batches/${id}`);
export const cancelBatch = (id: string): Promise<Batch> => json(`v1/batches/${id}/cancel`, post());
export const batches = (cursor: string | null = null): Promise<BatchPage> => json(`v1/batches?limit=20${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
/** The batch when it is not the version one has; null when nothing has changed for a while. */
export async function batchAfter(id: string, version: number, signal: AbortSignal): Promise<Batch | null> {
  const headers: Record<string, string> = version < 0 ? {} : { "If-None-Match": `W/"${version}"`, Prefer: "wait=15" };
  const response = await request(`v1/batches/${id}`, { headers, signal });
  return response.status === 304 ? null : ((await response.json()) as Batch);
}

/** Send a file; `onProgress` hears the fraction sent. */
export function upload(file: Blob, name: string, onProgress: (fraction: number) => void): Promise<Asset> {
  return new Promise((resolve, reject) => {
    const sender = new XMLHttpRequest();
    sender.open("POST", "v1/uploads");
    sender.setRequestHeader("Content-Type", "application/octet-stream");
    sender.setRequestHeader("Refilm-Filename", encodeURIComponent(name).slice(0, 1000));
    if (apiKey()) sender.setRequestHeader("Authorization", `Bearer ${apiKey()}`);
    sender.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    sender.onerror = () => reject(new Refusal(0, "unreachable", "The connection was lost while the file was sent."));
    sender.onload = async () => {
      const response = new Response(sender.responseText, { status: sender.status, statusText: sender.statusText });
      if (response.ok) resolve((await response.json()) as Asset);
      else reject(await refusal(response));
    };
    sender.send(file);
  });
}

/** Bytes of the service as an address a player takes: whole in memory, so that every frame can be sought at once. */
export async function media(path: string, signal?: AbortSignal): Promise<string> {
  return URL.createObjectURL(await (await request(path, { signal })).blob());
}
