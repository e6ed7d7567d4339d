/** The form of a method, drawn from its schemas: words first, then a section for each stage, advanced ones folded. */

import { FieldRow } from "./fields";
import { fieldsOf, filesOf, takesTrim, TRIM, type Field } from "./schema";
import { rerun, spoken, stageName } from "./text";
import type { Asset, Method } from "./types";

interface Props {
  method: Method;
  values: Record<string, unknown>;
  files: Record<string, Asset>;
  wrong: Record<string, string>;
  set: (name: string, value: unknown) => void;
  setFile: (name: string, file: File | null) => void;
}

const LEADING: Record<string, number> = { source_prompt: 0, prompt: 1, negative_prompt: 2 };

export function Form({ method, values, files, wrong, set, setFile }: Props) {
  const fields = fieldsOf(method).filter((field) => !(takesTrim(method) && TRIM.includes(field.name)));
  const words = fields.filter((field) => field.kind === "prompt" && !field.advanced);
  words.sort((a, b) => (LEADING[a.name] ?? 9) - (LEADING[b.name] ?? 9));
  const row = (field: Field, note?: string) => (
    <FieldRow
      key={`${method.id}.${field.name}`}
      field={field}
      value={values[field.name]}
      set={(value) => set(field.name, value)}
      wrong={wrong[field.name] ?? ""}
      note={note}
    />
  );
  const rest = fields.filter((field) => !words.includes(field));
  return (
    <>
      {words.length > 0 && (
        <fieldset class="section words">
          <legend>Words</legend>
          {words.map((field) => row(field, rerun(field.stage, method.stages)))}
        </fieldset>
      )}
      <FileInputs method={method} files={files} wrong={wrong} setFile={setFile} />
      {method.stages.map((stage) => (
        <Section key={stage} stage={stage} method={method} fields={rest.filter((field) => field.stage === stage)} row={row} wrong={wrong} />
      ))}
    </>
  );
}

interface SectionProps {
  stage: string;
  method: Method;
  fields: Field[];
  row: (field: Field) => preact.JSX.Element;
  wrong: Record<string, string>;
}

function Section({ stage, method, fields, row, wrong }: SectionProps) {
  if (!fields.length) return null;
  const plain = fields.filter((field) => !field.advanced);
  const advanced = fields.filter((field) => field.advanced);
  return (
    <fieldset class="section" data-stage={stage}>
      <legend>{stageName(stage)}</legend>
      <p class="rerun">{rerun(stage, method.stages)}.</p>
      {plain.length > 0 && <div class="grid">{plain.map((field) => row(field))}</div>}
      {advanced.length > 0 && (
        <details open={advanced.some((field) => wrong[field.name])}>
          <summary>Advanced · {advanced.length}</summary>
          <div class="grid">{advanced.map((field) => row(field))}</div>
        </details>
      )}
    </fieldset>
  );
}

function FileInputs({ method, files, wrong, setFile }: Pick<Props, "method" | "files" | "wrong" | "setFile">) {
  const inputs = filesOf(method);
  if (!inputs.length) return null;
  return (
    <fieldset class="section">
      <legend>More files</legend>
      {inputs.map(({ name, media, required, help, stage }) => (
        <div class="field" key={name} data-field={name}>
          <div class="field-head">
            <label for={`f-${name}`}>
              {spoken(name)}
              {required && <span class="needed"> needed</span>}
            </label>
            {files[name] && (
              <button type="button" class="reset" onClick={() => setFile(name, null)}>
                remove<span class="hidden"> {spoken(name)}</span>
              </button>
            )}
          </div>
          <input
            id={`f-${name}`}
            type="file"
            accept={media ? `${media}/*` : undefined}
            aria-describedby={`f-${name}-help`}
            onChange={(event) => setFile(name, (event.target as HTMLInputElement).files?.[0] ?? null)}
          />
          <p class="help" id={`f-${name}-help`}>
            {files[name] && <strong>{files[name].name} </strong>}
            {help} <span class="rerun">{rerun(stage, method.stages)}.</span>
            {wrong[name] && <strong class="wrong"> {wrong[name]}</strong>}
          </p>
        </div>
      ))}
    </fieldset>
  );
}
