/** From what the form holds to the request, and from a refusal back to the field. */

import type { Clip } from "./clip";
import type { Brought } from "./files";
import { fieldsOf, filesOf, takesTrim, WORDS } from "./schema";
import type { EditBody, Method } from "./types";

export type Values = Record<string, unknown>;
export type Files = Record<string, Brought[]>;

const NOTE_BYTES = 3000;
const PREVIEWS = 6; // of one edit
const PREVIEW_PX = 320;

/** The request of these choices. Only what differs from the method's defaults is sent. */
export function bodyOf(method: Method, values: Values, clip: Clip | null, files: Files, previews = false): EditBody {
  const body: EditBody = { method: method.id, input: { video: { asset: clip?.asset.id ?? "ast_…" } }, prompt: {}, params: {} };
  for (const field of fieldsOf(method)) {
    const value = values[field.name];
    if (value === undefined || JSON.stringify(value) === JSON.stringify(field.initial)) continue;
    const word = WORDS[field.name];
    if (!word) body.params[field.name] = value;
    else if (value !== "") body.prompt[word] = String(value);
  }
  if (clip && takesTrim(method) && (clip.start > 0 || clip.end !== null))
    body.input.trim = { start: clip.start, ...(clip.end === null ? {} : { end: clip.end }) };
  const brought = filesOf(method).flatMap(({ name, list }) => {
    const refs = (files[name] ?? []).map(({ asset }) => ({ asset: asset.id }));
    return refs.length ? [[name, list ? refs : refs[0]] as const] : [];
  });
  if (brought.length) body.input.files = Object.fromEntries(brought) as EditBody["input"]["files"];
  const steps = Number(values.num_inference_steps ?? 0);
  if (previews && steps > 1) body.output = { preview: { every_steps: Math.max(1, Math.round(steps / PREVIEWS)), max_px: PREVIEW_PX } };
  return body;
}

/** The values a method's form begins with; the words stay from one method to the next. */
export const starting = (method: Method, kept: Values): Values =>
  Object.fromEntries(fieldsOf(method).map((field) => [field.name, field.name in WORDS ? (kept[field.name] ?? field.initial) : field.initial]));

/** `#/input/files/mask/asset` or `#/prompt/target` as the name of the field it is about. */
export function fieldAt(pointer: string): string {
  const parts = pointer.replace(/^#\//, "").split("/");
  if (parts[0] === "prompt") return Object.keys(WORDS).find((name) => WORDS[name] === parts[1]) ?? "prompt";
  if (parts[0] === "input" && parts[1] === "files") return parts[2] ?? "";
  return parts[0] === "params" ? (parts[1] ?? "") : (parts[0] ?? "");
}

/** The request with what any browser needs to show the job next to its source, and to edit it again. */
export function noted(values: Values, clip: Clip, files: Files, body: EditBody): EditBody {
  const short = (value: unknown) => String(value ?? "").slice(0, 300);
  const used = Object.keys(body.input.files ?? {});
  const studio = {
    video: clip.asset.id,
    name: clip.asset.name.slice(0, 120),
    start: clip.start,
    ...(clip.end === null ? {} : { end: clip.end }),
    target: short(values.prompt),
    source: short(values.source_prompt),
    params: body.params,
    ...(used.length ? { files: Object.fromEntries(used.map((name) => [name, (files[name] ?? []).map(({ asset }) => asset.id)])) } : {}),
  };
  const room = JSON.stringify(studio).length < NOTE_BYTES ? studio : { ...studio, params: {}, files: undefined };
  return { ...body, metadata: { studio: room } };
}
