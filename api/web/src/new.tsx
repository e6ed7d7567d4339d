/** New edit: clip, method, words and parameters, and the request that comes of them. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import * as api from "./api";
import { ClipChooser, type Clip, type Sample } from "./clip";
import { Code } from "./code";
import { Form } from "./form";
import { Gallery } from "./gallery";
import { complaint, fieldsOf, filesOf, takesTrim, WORDS } from "./schema";
import { stageName, titled } from "./text";
import type { Asset, EditBody, Job, Method, MethodSummary } from "./types";

type Values = Record<string, unknown>;

/** The request of these choices. Only what differs from the method's defaults is sent. */
export function bodyOf(method: Method, values: Values, clip: Clip | null, files: Record<string, Asset>): EditBody {
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
  const brought = filesOf(method).flatMap(({ name }) => (files[name] ? [[name, { asset: files[name].id }] as const] : []));
  if (brought.length) body.input.files = Object.fromEntries(brought);
  return body;
}

const starting = (method: Method, kept: Values): Values =>
  Object.fromEntries(fieldsOf(method).map((field) => [field.name, field.name in WORDS ? (kept[field.name] ?? field.initial) : field.initial]));

/** `#/input/files/mask/asset` or `#/prompt/target` as the name of the field it is about. */
export function fieldAt(pointer: string): string {
  const parts = pointer.replace(/^#\//, "").split("/");
  if (parts[0] === "prompt") return Object.keys(WORDS).find((name) => WORDS[name] === parts[1]) ?? "prompt";
  if (parts[0] === "input" && parts[1] === "files") return parts[2] ?? "";
  return parts[0] === "params" ? (parts[1] ?? "") : (parts[0] ?? "");
}

function noted(values: Values, clip: Clip, body: EditBody): EditBody {
  const short = (value: unknown) => String(value ?? "").slice(0, 300);
  const studio = { video: clip.asset.id, name: clip.asset.name.slice(0, 120), start: clip.start, target: short(values.prompt), source: short(values.source_prompt), params: body.params };
  const room = JSON.stringify(studio).length < 2500 ? studio : { ...studio, params: {} };
  return { ...body, metadata: { studio: room } };
}

export function NewEdit({ from, fail }: { from: string; fail: (error: unknown) => void }) {
  const [methods, setMethods] = useState<MethodSummary[]>([]);
  const [method, setMethod] = useState<Method | null>(null);
  const [values, setValues] = useState<Values>({});
  const [clip, setClip] = useState<Clip | null>(null);
  const [files, setFiles] = useState<Record<string, Asset>>({});
  const [wrong, setWrong] = useState<Record<string, string>>({});
  const [busy, setBusy] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  const latest = useRef("");

  const choose = async (id: string, given: Values = {}) => {
    latest.current = id;
    const found = await api.method(id);
    if (latest.current !== id) return;
    setWrong({});
    setMethod(found);
    setValues((old) => ({ ...starting(found, old), ...given }));
  };
  const start = async () => {
    const known = await api.methods();
    setMethods(known);
    const old = from ? await api.job(from) : null;
    const note = old?.metadata.studio;
    const first = old?.method ?? known.find(({ id }) => id === "frame_by_frame")?.id ?? known[0]?.id;
    if (first) await choose(first, note ? { ...note.params, prompt: note.target, source_prompt: note.source } : {});
    if (!note) return;
    const asset = await api.asset(note.video);
    setClip({ asset, url: await api.media(`v1/assets/${note.video}/content`), start: note.start, end: null });
  };
  useEffect(() => void start().catch(fail), []);

  const sample = ({ prompts }: Sample) => setValues((old) => ({ ...old, ...prompts }));
  const set = (name: string, value: unknown) => {
    setValues((old) => ({ ...old, [name]: value }));
    setWrong(({ [name]: _, ...others }) => others);
  };
  const setFile = async (name: string, file: File | null) => {
    if (!file) return setFiles(({ [name]: _, ...others }) => others);
    try {
      const asset = await api.upload(file, file.name, () => undefined);
      setFiles((old) => ({ ...old, [name]: asset }));
    } catch (error) {
      setWrong((old) => ({ ...old, [name]: error instanceof Error ? error.message : "could not be sent" }));
    }
  };
  const body = useMemo(() => method && bodyOf(method, values, clip, files), [method, values, clip, files]);

  const show = (found: Record<string, string>) => {
    setWrong(found);
    requestAnimationFrame(() => {
      const first = form.current?.querySelector<HTMLElement>("[aria-invalid=true]");
      first?.closest("details")?.setAttribute("open", "");
      first?.focus();
    });
  };
  const refused = (error: unknown) => {
    if (!(error instanceof api.Refusal) || !error.errors.length) return fail(error);
    show(Object.fromEntries(error.errors.map((entry) => [fieldAt(entry.pointer ?? ""), `${entry.message}.`])));
    fail(error);
  };
  const submit = async (event: Event) => {
    event.preventDefault();
    if (!method || !body || !clip) return fail(new Error("Choose a clip first."));
    const found = fieldsOf(method).map((field) => [field.name, complaint(field, values[field.name])] as const);
    const bad = found.filter(([, text]) => text);
    if (bad.length) return show(Object.fromEntries(bad));
    setBusy(true);
    try {
      const job: Job = await api.createEdit(noted(values, clip, body));
      location.hash = `#/jobs/${job.id}`;
    } catch (error) {
      refused(error);
    } finally {
      setBusy(false);
    }
  };

  return (
    <form class="new" ref={form} onSubmit={submit} noValidate>
      <h1 class="hidden">New edit</h1>
      <section class="panel clip-panel" aria-labelledby="h-clip">
        <h2 id="h-clip">Clip</h2>
        <ClipChooser clip={clip} set={setClip} sample={sample} trims={method !== null && takesTrim(method)} fail={fail} />
      </section>
      <section class="panel method-panel" aria-labelledby="h-method">
        <h2 id="h-method">Method</h2>
        <Gallery methods={methods} chosen={method?.id ?? ""} choose={(id) => void choose(id).catch(fail)} />
        {method && <About method={method} />}
      </section>
      <section class="panel form-panel" aria-labelledby="h-form">
        <h2 id="h-form">{method ? titled(method.title, method.id).name : "Parameters"}</h2>
        {method && <Form method={method} values={values} files={files} wrong={wrong} set={set} setFile={(name, file) => void setFile(name, file)} />}
        {body && <Code body={body} withKey={api.apiKey() !== ""} />}
      </section>
      <div class="submit-bar">
        <p class="quiet">{clip ? (method ? method.stages.map(stageName).join(" → ") : "") : "Choose a clip to begin."}</p>
        <button type="submit" class="primary" disabled={busy || !clip || !method}>
          {busy ? "Sending…" : "Start edit"}
        </button>
      </div>
    </form>
  );
}

function About({ method }: { method: Method }) {
  const text = method.documentation.split("\n").slice(1).join("\n").trim();
  if (!text) return null;
  return (
    <details class="about">
      <summary>How {titled(method.title, method.id).name} works</summary>
      <p class="documentation">{text}</p>
      {method.paper?.arxiv && (
        <p class="quiet">
          {method.paper.title} · arXiv:{method.paper.arxiv}
        </p>
      )}
    </details>
  );
}
