/** The form of a method, drawn from its schemas: words first, then a section for each stage, advanced ones folded. */

import type { Clip } from "./clip";
import { FieldRow } from "./fields";
import { FileRow, type FileActions } from "./files";
import { fieldsOf, filesOf, filledBy, takesTrim, TRIM, type Field } from "./schema";
import { rerun, stageName, STAGES } from "./text";
import type { Method } from "./types";
import { Drawing } from "./widgets/drawing";

interface Props {
  method: Method;
  clip: Clip | null;
  values: Record<string, unknown>;
  wrong: Record<string, string>;
  set: (name: string, value: unknown) => void;
  actions: FileActions;
}

const LEADING: Record<string, number> = { source_prompt: 0, prompt: 1, negative_prompt: 2 };

export function Form({ method, clip, values, wrong, set, actions }: Props) {
  const all = fieldsOf(method);
  const filled = filledBy(all);
  const fields = all.filter((field) => !(takesTrim(method) && TRIM.includes(field.name)) && !filled.has(field.name));
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
  const files = filesOf(method);
  return (
    <Drawing.Provider value={{ clip, values, wrong, set, field: (name) => all.find((field) => field.name === name) }}>
      {words.length > 0 && (
        <fieldset class="section words">
          <legend>Words</legend>
          {words.map((field) => row(field, rerun(field.stage, method.stages)))}
        </fieldset>
      )}
      {files.length > 0 && (
        <fieldset class="section">
          <legend>More files</legend>
          {files.map((field) => (
            <FileRow key={`${method.id}.${field.name}`} field={field} method={method} actions={actions} />
          ))}
        </fieldset>
      )}
      {method.stages.map((stage) => (
        <Section key={stage} stage={stage} method={method} fields={rest.filter((field) => field.stage === stage)} row={row} wrong={wrong} />
      ))}
    </Drawing.Provider>
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
      <p class="rerun">
        {STAGES[stage]?.does}. {rerun(stage, method.stages)}.
      </p>
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
