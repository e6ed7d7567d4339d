/** Every request of the page. Addresses are relative, so that it works under any prefix of the origin's path. */

import type { Asset, EditBody, FieldError, Job, JobPage, Method, MethodSummary } from "./types";

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

export const methods = async (): Promise<MethodSummary[]> => (await json<{ data: MethodSummary[] }>("v1/methods")).data;
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
export const job = (id: string): Promise<Job> => json(`v1/jobs/${id}`);
export const cancel = (id: string): Promise<Job> => json(`v1/jobs/${id}/cancel`, post());
export const retry = (id: string): Promise<Job> => json(`v1/jobs/${id}/retry`, post(undefined, once()));
export const remove = (id: string): Promise<Response> => request(`v1/jobs/${id}`, { method: "DELETE" });
export interface Wanted {
  states?: string[];
  cursor?: string | null;
  limit?: number;
}
export function jobs({ states = [], cursor = null, limit = 24 }: Wanted): Promise<JobPage> {
  const query = new URLSearchParams({ limit: String(limit) });
  states.forEach((state) => query.append("state", state));
  if (cursor) query.set("cursor", cursor);
  return json(`v1/jobs?${query}`);
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
