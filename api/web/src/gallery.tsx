/** The methods to choose from: what each does in a line, what it needs, and how long it takes by the stages it has. */

import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import { filesOf } from "./schema";
import { seconds, spoken, titled } from "./text";
import type { Method, MethodSummary } from "./types";

const STRIPS = import.meta.glob<string>("./strips/*.webp", { eager: true, query: "?url", import: "default" });

/** Tuning takes longest, then inversion; without either a method only denoises. */
export function speed(method: Method): { name: string; title: string } {
  if (method.stages.includes("fit") && method.params.properties.num_tuning_steps)
    return { name: "tunes first", title: "Tunes the network to the clip before the first edit; later edits reuse that" };
  if (method.stages.includes("invert")) return { name: "inverts first", title: "Finds the clip's noise before the first edit; later edits reuse that" };
  return { name: "direct", title: "Nothing to do before denoising" };
}

/** What must be given beside the clip and the prompt. */
export function needs(method: Method): string[] {
  const required = (method.params.required ?? []).filter((name) => name !== "prompt");
  const files = filesOf(method).filter((file) => file.required);
  return [...required, ...files.map((file) => file.name)].map((name) => spoken(name).toLowerCase());
}

interface Props {
  methods: MethodSummary[];
  chosen: string;
  choose: (id: string) => void;
}

export function Gallery({ methods, chosen, choose }: Props) {
  const [details, setDetails] = useState<Record<string, Method>>({});
  const [search, setSearch] = useState("");
  useEffect(() => {
    let gone = false;
    const queue = methods.map((entry) => entry.id);
    const work = async () => {
      for (let id = queue.shift(); id && !gone; id = queue.shift()) {
        const found = await api.method(id).catch(() => null);
        if (found && !gone) setDetails((known) => ({ ...known, [found.id]: found }));
      }
    };
    for (let lane = 0; lane < 3; lane += 1) void work();
    return () => void (gone = true);
  }, [methods]);
  const wanted = search.toLowerCase();
  const shown = methods.filter((entry) => `${entry.id} ${entry.title} ${entry.paper?.title ?? ""}`.toLowerCase().includes(wanted));
  return (
    <div class="gallery">
      {methods.length > 6 && (
        <input type="search" aria-label="Search methods" placeholder="Search methods" value={search} onInput={(event) => setSearch((event.target as HTMLInputElement).value)} />
      )}
      <div class="cards" role="radiogroup" aria-label="Method">
        {shown.map((entry) => (
          <Card key={entry.id} entry={entry} method={details[entry.id]} chosen={entry.id === chosen} choose={choose} />
        ))}
      </div>
      {!shown.length && <p class="quiet">No method is called that.</p>}
    </div>
  );
}

function Card({ entry, method, chosen, choose }: { entry: MethodSummary; method?: Method; chosen: boolean; choose: Props["choose"] }) {
  const { name, line } = titled(entry.title, entry.id);
  const strip = STRIPS[`./strips/${entry.id}.webp`];
  return (
    <label class="card" data-method={entry.id}>
      {strip && (
        <span class="card-strip">
          <img src={strip} alt="" width={460} height={112} loading="lazy" decoding="async" />
        </span>
      )}
      <input type="radio" name="method" value={entry.id} checked={chosen} onChange={() => choose(entry.id)} aria-labelledby={`m-${entry.id}`} aria-describedby={`d-${entry.id}`} />
      <span class="card-name" id={`m-${entry.id}`}>
        {name} {entry.paper?.venue && <span class="venue">{entry.paper.venue}</span>}
      </span>
      <span class="card-line" id={`d-${entry.id}`}>{entry.summary || line}</span>
      <span class="tags">
        {method && (
          <span class="tag speed" title={speed(method).title}>
            {speed(method).name}
          </span>
        )}
        {entry.times && (
          <span class="tag" title={`Half of the last ${entry.times.jobs} took at most that long, whatever their size`}>
            usually {seconds(entry.times.p50_seconds)}
          </span>
        )}
        {method &&
          needs(method).map((need) => (
            <span class="tag" key={need}>
              needs {need}
            </span>
          ))}
      </span>
    </label>
  );
}
