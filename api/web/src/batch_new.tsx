/** New batch: several clips, prompts and methods, every one with every other. */

import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import { FieldRow } from "./fields";
import { needs } from "./gallery";
import { fieldsOf, WORDS, TRIM, type Field } from "./schema";
import { titled } from "./text";
import { Still } from "./thumbnail";
import type { Asset, BatchBody, Method, MethodSummary } from "./types";

interface Clip {
  asset: Asset;
  source: string;
}

const MOST = 10_000;
const READY = ["prompt", "source prompt"]; // what a batch can give every method
const NAMES_BYTES = 3000;

/** Settings that all chosen methods have and that are not folded away, by the first one's description. */
export function shared(methods: Method[]): Field[] {
  const [first, ...others] = methods.map(fieldsOf);
  const same = (field: Field, other: Field): boolean => other.name === field.name && other.kind === field.kind;
  return (first ?? []).filter(
    (field) =>
      !(field.name in WORDS) && !TRIM.includes(field.name) && !field.advanced && !field.required && ["number", "choice", "switch"].includes(field.kind) && others.every((fields) => fields.some((other) => same(field, other))),
  );
}

export function NewBatch({ from, fail }: { from: string; fail: (error: unknown) => void }) {
  const [summaries, setSummaries] = useState<MethodSummary[]>([]);
  const [methods, setMethods] = useState<Record<string, Method>>({});
  const [chosen, setChosen] = useState<string[]>([]);
  const [clips, setClips] = useState<Clip[]>([]);
  const [prompts, setPrompts] = useState<string[]>([""]);
  const [params, setParams] = useState<Record<string, unknown>>({});
  const [sending, setSending] = useState(0);
  const [busy, setBusy] = useState(false);
  const start = async () => {
    const known = await api.methods();
    setSummaries(known);
    const all = await Promise.all(known.map(({ id }) => api.method(id)));
    setMethods(Object.fromEntries(all.map((method) => [method.id, method])));
    const old = from ? (await api.batch(from)).matrix : null;
    if (!old) return;
    setPrompts(old.prompts.map(({ target }) => target));
    setChosen([...new Set(old.methods.map(({ method }) => method))]);
    setParams(old.params ?? {});
    setClips(await Promise.all(old.videos.map(async ({ video, source }) => ({ asset: await api.asset(video.asset), source: source ?? "" }))));
  };
  useEffect(() => void start().catch(fail), []);

  const bring = async (files: { blob: Blob; name: string; source: string }[]) => {
    for (const { blob, name, source } of files) {
      setSending((count) => count + 1);
      try {
        const asset = await api.upload(blob, name, () => undefined);
        setClips((old) => (old.some((clip) => clip.asset.id === asset.id) ? old : [...old, { asset, source }]));
      } catch (error) {
        fail(error);
      } finally {
        setSending((count) => count - 1);
      }
    }
  };
  const take = (list: FileList | null | undefined) => void bring([...(list ?? [])].map((file) => ({ blob: file, name: file.name, source: "" })));
  const sample = async () => {
    const [words, film] = await Promise.all([fetch("studio/sample.json"), fetch("studio/sample.mp4")]);
    const { prompts: given } = (await words.json()) as { prompts: Record<string, string> };
    await bring([{ blob: await film.blob(), name: "sample.mp4", source: given.source_prompt ?? "" }]);
    if (given.prompt && prompts.every((text) => !text)) setPrompts([given.prompt]);
  };
  const drop = (event: DragEvent) => {
    event.preventDefault();
    take(event.dataTransfer?.files);
  };

  const used = chosen.flatMap((id) => methods[id] ?? []);
  const written = prompts.map((text) => text.trim()).filter(Boolean);
  const total = clips.length * written.length * used.length;
  const wantsSource = used.some((method) => needs(method).includes("source prompt"));
  const unsaid = wantsSource && clips.some((clip) => !clip.source.trim());
  const fields = shared(used);
  const missing = !clips.length ? "Add a clip." : !written.length ? "Write a prompt." : !used.length ? "Choose a method." : unsaid ? "Say what each clip shows: a chosen method needs it." : total > MOST ? `At most ${MOST} edits in one batch.` : "";
  const submit = async (event: Event) => {
    event.preventDefault();
    if (missing) return fail(new Error(missing));
    const names = clips.map(({ asset }) => asset.name.slice(0, 80));
    const set = Object.fromEntries(fields.filter(({ name }) => params[name] !== undefined).map(({ name }) => [name, params[name]]));
    const body: BatchBody = {
      videos: clips.map(({ asset, source }) => ({ video: { asset: asset.id }, ...(source.trim() ? { source: source.trim() } : {}) })),
      prompts: written.map((target) => ({ target })),
      methods: used.map(({ id }) => ({ method: id })),
      ...(Object.keys(set).length ? { params: set } : {}),
      ...(JSON.stringify(names).length < NAMES_BYTES ? { metadata: { studio_batch: { names } } } : {}),
    };
    setBusy(true);
    try {
      location.hash = `#/batches/${(await api.createBatch(body)).id}`;
    } catch (error) {
      fail(error);
    } finally {
      setBusy(false);
    }
  };
  const write = (index: number, text: string) => setPrompts(prompts.map((old, other) => (other === index ? text : old)));
  const toggle = (id: string) => setChosen(chosen.includes(id) ? chosen.filter((other) => other !== id) : [...chosen, id]);
  return (
    <form class="new-batch" onSubmit={(event) => void submit(event)} noValidate>
      <div>
        <h1>New batch</h1>
        <p class="quiet">Every clip with every prompt and every method. Edits of one clip share its inversion.</p>
      </div>
      <section class="panel" aria-labelledby="b-clips" onDragOver={(event) => event.preventDefault()} onDrop={drop}>
        <h2 id="b-clips">Clips</h2>
        <ul class="batch-clips">
          {clips.map(({ asset, source }, index) => (
            <li key={asset.id}>
              <Still path={`v1/assets/${asset.id}/content`} />
              <div class="batch-clip">
                <span class="file-name">{asset.name}</span>
                <input
                  type="text"
                  aria-label={`What ${asset.name} shows`}
                  placeholder="What it shows"
                  maxLength={2000}
                  value={source}
                  onInput={(event) => setClips(clips.map((clip, other) => (other === index ? { ...clip, source: (event.target as HTMLInputElement).value } : clip)))}
                />
              </div>
              <button type="button" aria-label={`Remove ${asset.name}`} onClick={() => setClips(clips.filter((_, other) => other !== index))}>
                ×
              </button>
            </li>
          ))}
        </ul>
        <div class="buttons">
          <label class="button">
            Add clips
            <input type="file" class="hidden" multiple accept="video/*" onChange={(event) => take((event.target as HTMLInputElement).files)} />
          </label>
          <button type="button" onClick={() => void sample().catch(fail)}>
            Add the sample
          </button>
        </div>
        {sending > 0 && (
          <p class="quiet" role="status">
            Sending {sending} {sending === 1 ? "clip" : "clips"}…
          </p>
        )}
      </section>
      <section class="panel" aria-labelledby="b-prompts">
        <h2 id="b-prompts">Prompts</h2>
        <ol class="batch-prompts">
          {prompts.map((text, index) => (
            <li key={index}>
              <input
                type="text"
                aria-label={`Prompt ${index + 1}`}
                placeholder="What the edited clip shows"
                maxLength={2000}
                value={text}
                onInput={(event) => write(index, (event.target as HTMLInputElement).value)}
              />
              <button type="button" aria-label={`Remove prompt ${index + 1}`} disabled={prompts.length === 1} onClick={() => setPrompts(prompts.filter((_, other) => other !== index))}>
                ×
              </button>
            </li>
          ))}
        </ol>
        <button type="button" onClick={() => setPrompts([...prompts, ""])}>
          Add a prompt
        </button>
      </section>
      <section class="panel" aria-labelledby="b-methods">
        <h2 id="b-methods">Methods</h2>
        <div class="picks" role="group" aria-labelledby="b-methods">
          {summaries.map((entry) => {
            const more = methods[entry.id] ? needs(methods[entry.id] as Method).filter((need) => !READY.includes(need)) : [];
            return (
              <label key={entry.id} class={`pick ${more.length ? "off" : ""}`} data-method={entry.id}>
                <input type="checkbox" checked={chosen.includes(entry.id)} disabled={more.length > 0} onChange={() => toggle(entry.id)} /> {titled(entry.title, entry.id).name}
                {more.length > 0 && <span class="tag">needs {more.join(", ")}</span>}
              </label>
            );
          })}
        </div>
        {fields.length > 0 && (
          <details class="about">
            <summary>Settings they share</summary>
            <div class="grid">
              {fields.map((field) => (
                <FieldRow key={field.name} field={field} value={params[field.name] ?? field.initial} set={(value) => setParams({ ...params, [field.name]: value })} wrong="" />
              ))}
            </div>
          </details>
        )}
      </section>
      <div class="submit-bar">
        <p class="count">
          {clips.length} × {written.length} × {used.length} = <strong>{total} edits</strong>
          {missing && ` · ${missing}`}
        </p>
        <button type="submit" class="primary" disabled={busy || sending > 0}>
          {busy ? "Sending…" : "Start batch"}
        </button>
      </div>
    </form>
  );
}
