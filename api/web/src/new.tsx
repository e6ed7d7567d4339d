/** New edit: clip, method, words and parameters, and the request that comes of them. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import * as api from "./api";
import { ClipChooser, type Clip, type Sample } from "./clip";
import { Code } from "./code";
import { EstimateLine, useEstimate } from "./estimate";
import { Form } from "./form";
import { Gallery } from "./gallery";
import { bodyOf, fieldAt, noted, starting, type Files, type Values } from "./request";
import { complaint, fieldsOf, filesOf, takesTrim } from "./schema";
import { stageName, titled } from "./text";
import type { Job, Method, MethodSummary, Note } from "./types";
import { useFiles } from "./use_files";

const FIRST = "tokenflow"; // what a newcomer finds chosen, where there is such a method

/** Files of an earlier job, those that are still there. */
async function again(note: Note): Promise<Files> {
  const found = Object.entries(note.files ?? {}).map(async ([name, ids]) => {
    const assets = await Promise.all(ids.map(async (id) => ({ asset: await api.asset(id), url: await api.media(`v1/assets/${id}/content`) })));
    return [name, assets] as const;
  });
  return Object.fromEntries((await Promise.allSettled(found)).flatMap((one) => (one.status === "fulfilled" ? [one.value] : [])));
}

export function NewEdit({ from, fail }: { from: string; fail: (error: unknown) => void }) {
  const [methods, setMethods] = useState<MethodSummary[]>([]);
  const [picked, setPicked] = useState(""); // at once, its description follows
  const [method, setMethod] = useState<Method | null>(null);
  const [values, setValues] = useState<Values>({});
  const [clip, setClip] = useState<Clip | null>(null);
  const [wrong, setWrong] = useState<Record<string, string>>({});
  const [busy, setBusy] = useState(false);
  const [previews, setPreviews] = useState(true);
  const form = useRef<HTMLFormElement>(null);
  const latest = useRef("");
  const { actions, put, settled } = useFiles((name, why) => setWrong((old) => ({ ...old, [name]: why })));

  const choose = async (id: string, given: Values = {}) => {
    latest.current = id;
    setPicked(id);
    const found = await api.method(id);
    if (latest.current !== id) return;
    setWrong({});
    setMethod(found);
    setValues((old) => ({ ...starting(found, old), ...given }));
  };
  const start = async () => {
    const known = await api.methods();
    const old = from ? await api.job(from) : null;
    const note = old?.metadata.studio;
    const first = old?.method ?? known.find(({ id }) => id === FIRST)?.id ?? known[0]?.id;
    setMethods([...known.filter(({ id }) => id === first), ...known.filter(({ id }) => id !== first)]);
    if (first) await choose(first, note ? { ...note.params, prompt: note.target, source_prompt: note.source } : {});
    if (!note) return;
    const asset = await api.asset(note.video);
    setClip({ asset, url: await api.media(`v1/assets/${note.video}/content`), start: note.start, end: note.end ?? null });
    put(await again(note));
  };
  useEffect(() => void start().catch(fail), []);

  const sample = ({ prompts }: Sample) => setValues((old) => ({ ...old, ...prompts }));
  const set = (name: string, value: unknown) => {
    setValues((old) => ({ ...old, [name]: value }));
    setWrong(({ [name]: _, ...others }) => others);
  };
  const body = useMemo(() => method && bodyOf(method, values, clip, actions.files, previews), [method, values, clip, actions.files, previews]);

  const whole = method && clip && fieldsOf(method).every((field) => !complaint(field, values[field.name]));
  const estimate = useEstimate(whole ? body : null);

  const show = (found: Record<string, string>) => {
    setWrong(found);
    requestAnimationFrame(() => {
      const first = form.current?.querySelector<HTMLElement>("[aria-invalid=true], [data-invalid=true]");
      first?.closest("details")?.setAttribute("open", "");
      first?.focus();
    });
  };
  const refused = (error: unknown) => {
    if (!(error instanceof api.Refusal) || !error.errors.length) return fail(error);
    show(Object.fromEntries(error.errors.map((entry) => [fieldAt(entry.pointer ?? ""), `${entry.message}.`])));
    fail(error);
  };
  const missing = (chosen: Method, files: Files): [string, string][] => [
    ...fieldsOf(chosen).map((field): [string, string] => [field.name, complaint(field, values[field.name])]),
    ...filesOf(chosen).map((file): [string, string] => [file.name, file.required && !files[file.name]?.length ? "This is needed." : ""]),
  ];
  const submit = async (event: Event) => {
    event.preventDefault();
    if (!method || !clip) return fail(new Error("Choose a clip first."));
    setBusy(true);
    try {
      const files = await settled();
      const bad = missing(method, files).filter(([, text]) => text);
      if (bad.length) return show(Object.fromEntries(bad));
      const job: Job = await api.createEdit(noted(values, clip, files, bodyOf(method, values, clip, files, previews)));
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
        <h2 id="h-clip"><Number at={1} />Clip</h2>
        <ClipChooser clip={clip} set={setClip} sample={sample} trims={method !== null && takesTrim(method)} fail={fail} />
      </section>
      <section class="panel method-panel" aria-labelledby="h-method">
        <h2 id="h-method"><Number at={2} />Method</h2>
        <Gallery methods={methods} chosen={picked} choose={(id) => void choose(id).catch(fail)} />
        {method && <About method={method} />}
      </section>
      <section class="panel form-panel" aria-labelledby="h-form">
        <h2 id="h-form"><Number at={3} />{method ? titled(method.title, method.id).name : "Parameters"}</h2>
        {method && <Form method={method} clip={clip} values={values} wrong={wrong} set={set} actions={{ ...actions, wrong }} />}
        {body && <Code body={body} withKey={api.apiKey() !== ""} />}
      </section>
      <div class="submit-bar">
        {estimate ? <EstimateLine estimate={estimate} /> : <p class="quiet">{clip ? (method ? method.stages.map(stageName).join(" → ") : "") : "Choose a clip to begin."}</p>}
        <label class="previews" title="A small moving picture of the edit now and then while it is made">
          <input type="checkbox" checked={previews} onChange={(event) => setPreviews((event.target as HTMLInputElement).checked)} /> Previews
        </label>
        <button type="submit" class="primary" disabled={busy || !clip || !method}>
          {busy ? "Sending…" : "Start edit"}
        </button>
      </div>
    </form>
  );
}

/** The order of things to do, for the eye only. */
const Number = ({ at }: { at: number }) => (
  <span class="ordinal" aria-hidden="true">
    {at}
  </span>
);

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
