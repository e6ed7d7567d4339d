/** Files beside the clip: chosen, dropped or painted; one, or a list of them. */

import { useState } from "preact/hooks";
import type { FileField } from "./schema";
import { rerun, spoken } from "./text";
import type { Asset, Method } from "./types";
import { Mask } from "./widgets/mask";

export interface Brought {
  asset: Asset;
  url: string;
}

export interface FileActions {
  files: Record<string, Brought[]>;
  wrong: Record<string, string>;
  add: (field: FileField, chosen: File[]) => void;
  remove: (name: string, index: number) => void;
  draft: (name: string, make: () => Promise<Blob[]>) => void;
}

export function FileRow({ field, method, actions }: { field: FileField; method: Method; actions: FileActions }) {
  const { name, media, required, help, stage, list, most, widget } = field;
  const given = actions.files[name] ?? [];
  const [over, setOver] = useState(false);
  const wrong = actions.wrong[name] ?? "";
  const full = given.length >= most;
  const take = (chosen: FileList | null | undefined) => {
    const files = [...(chosen ?? [])].slice(0, list ? most - given.length : 1);
    if (files.length) actions.add(field, files);
  };
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer?.files);
  };
  const drag = (event: DragEvent) => {
    event.preventDefault();
    setOver(true);
  };
  const clear = () => given.forEach(() => actions.remove(name, 0));
  return (
    <div class="field" data-field={name}>
      <div class="field-head">
        <label for={`f-${name}`}>
          {spoken(name)}
          {required && <span class="needed"> needed</span>}
        </label>
        {list && (
          <span class="unit">
            {given.length} of at most {most}
          </span>
        )}
      </div>
      {widget === "mask" && <Mask file={field} painted={given.length > 0} draft={(make) => actions.draft(name, make)} clear={clear} />}
      <div class={`files ${over ? "over" : ""}`} onDragOver={drag} onDragLeave={() => setOver(false)} onDrop={drop}>
        {given.map((item, index) => (
          <Item key={item.asset.id + index} item={item} remove={() => actions.remove(name, index)} />
        ))}
        <label class={`button ${full && list ? "off" : ""}`}>
          {given.length && !list ? "Another file" : widget === "mask" ? "Or choose a picture" : list ? "Add files" : "Choose a file"}
          <input
            id={`f-${name}`}
            type="file"
            class="hidden"
            multiple={list}
            disabled={list && full}
            accept={media ? `${media}/*` : undefined}
            aria-describedby={`f-${name}-help`}
            aria-invalid={wrong !== ""}
            onChange={(event) => {
              take((event.target as HTMLInputElement).files);
              (event.target as HTMLInputElement).value = "";
            }}
          />
        </label>
      </div>
      <p class="help" id={`f-${name}-help`}>
        {help} <span class="rerun">{rerun(stage, method.stages)}.</span>
        {wrong && <strong class="wrong"> {wrong}</strong>}
      </p>
    </div>
  );
}

function Item({ item, remove }: { item: Brought; remove: () => void }) {
  const { asset, url } = item;
  const kind = asset.media_type.split("/")[0];
  return (
    <figure class="file" data-asset={asset.id}>
      {kind === "image" && <img src={url} alt="" />}
      {kind === "video" && <video src={`${url}#t=0.01`} muted playsInline preload="auto" tabIndex={-1} aria-hidden="true" />}
      {kind === "audio" && <audio src={url} controls aria-label={asset.name} />}
      <figcaption>{asset.name}</figcaption>
      <button type="button" aria-label={`Remove ${asset.name}`} onClick={remove}>
        ×
      </button>
    </figure>
  );
}
