/** One control for each kind of field. */

import { useState } from "preact/hooks";
import { itemOf, POSITIONS, rangeOf, toPosition, toValue, type Field } from "./schema";
import { plain, spoken } from "./text";
import { Boxes } from "./widgets/boxes";
import { Points } from "./widgets/points";
import { Trajectory } from "./widgets/trajectory";

interface Props {
  field: Field;
  value: unknown;
  set: (value: unknown) => void;
  wrong: string;
  note?: string;
}

export type Control = Omit<Props, "note" | "wrong"> & { id: string; described: string; invalid: boolean };

export function FieldRow({ field, value, set, wrong, note }: Props) {
  const id = `f-${field.name}`;
  const [round, setRound] = useState(0);
  const reset = () => {
    set(field.initial);
    setRound(round + 1); // a control that holds half-typed text starts anew
  };
  const control = { field, value, set, id, described: `${id}-help`, invalid: wrong !== "" };
  const changed = JSON.stringify(value) !== JSON.stringify(field.initial) && field.initial !== undefined;
  return (
    <div class={`field kind-${field.kind}`} data-field={field.name}>
      <div class="field-head">
        <Name field={field} id={id} />
        {changed && (
          <button type="button" class="reset" onClick={reset}>
            reset<span class="hidden"> {spoken(field.name)}</span>
          </button>
        )}
        {field.schema["x-unit"] && <span class="unit">{field.schema["x-unit"]}</span>}
      </div>
      <ControlOf key={round} {...control} />
      <p class="help" id={control.described}>
        {field.help} {note && <span class="rerun">{note}.</span>}
        {wrong && <strong class="wrong"> {wrong}</strong>}
      </p>
    </div>
  );
}

const DRAWN = ["boxes", "points", "trajectory"];

function Name({ field, id }: { field: Field; id: string }) {
  const name = (
    <>
      {spoken(field.name)}
      {field.required && <span class="needed"> needed</span>}
    </>
  );
  return DRAWN.includes(field.kind) ? <strong id={`${id}-name`}>{name}</strong> : <label for={id}>{name}</label>;
}

function ControlOf(props: Control) {
  switch (props.field.kind) {
    case "boxes":
      return <Boxes {...props} />;
    case "points":
      return <Points {...props} />;
    case "trajectory":
      return <Trajectory {...props} />;
    case "choice":
      return <Choice {...props} />;
    case "switch":
      return props.field.nullable ? <Maybe {...props} /> : <Switch {...props} />;
    case "number":
      return <NumberControl {...props} />;
    case "chips":
      return <Chips {...props} />;
    case "json":
      return <Json {...props} />;
    default:
      return <Text {...props} />;
  }
}

const common = ({ id, described, invalid }: Control) => ({ id, "aria-describedby": described, "aria-invalid": invalid });

function Text(props: Control) {
  const { field, value, set } = props;
  const example = field.schema.examples?.[0];
  const shared = {
    ...common(props),
    value: plain(value ?? ""),
    maxLength: field.schema.maxLength,
    placeholder: example === undefined ? undefined : plain(example),
    onInput: (event: Event) => set((event.target as HTMLInputElement).value),
  };
  return field.kind === "prompt" ? <textarea rows={2} {...shared} /> : <input type="text" {...shared} />;
}

function Choice(props: Control) {
  const { field, value, set } = props;
  const choices = field.schema.enum ?? [];
  const pick = (event: Event) => {
    const index = (event.target as HTMLSelectElement).selectedIndex - (field.nullable ? 1 : 0);
    set(index < 0 ? null : choices[index]);
  };
  return (
    <select {...common(props)} onChange={pick}>
      {field.nullable && <option selected={value == null}>automatic</option>}
      {choices.map((choice) => (
        <option key={choice} selected={choice === value}>
          {String(choice).replace(/_/g, " ")}
        </option>
      ))}
    </select>
  );
}

function Switch(props: Control) {
  return (
    <input
      type="checkbox"
      class="switch"
      role="switch"
      {...common(props)}
      checked={props.value === true}
      onChange={(event) => props.set((event.target as HTMLInputElement).checked)}
    />
  );
}

function Maybe(props: Control) {
  const values = [null, true, false];
  return (
    <select {...common(props)} onChange={(event) => props.set(values[(event.target as HTMLSelectElement).selectedIndex])}>
      {["automatic", "yes", "no"].map((name, index) => (
        <option key={name} selected={(props.value ?? null) === values[index]}>
          {name}
        </option>
      ))}
    </select>
  );
}

function NumberControl(props: Control) {
  const { field, value, set } = props;
  const range = field.nullable ? null : rangeOf(field);
  const read = (event: Event) => {
    const { value: text, valueAsNumber } = event.target as HTMLInputElement;
    set(text === "" ? (field.nullable ? null : undefined) : valueAsNumber);
  };
  const keys = (event: KeyboardEvent) => {
    const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!way || !range || range.bend === 1) return;
    event.preventDefault();
    set(Math.min(range.high, Math.max(range.low, Number((Number(value) + way * range.step).toFixed(6)))));
  };
  return (
    <div class="number">
      {range && (
        <input
          type="range"
          aria-label={`${spoken(field.name)}, slider`}
          aria-valuetext={String(value)}
          min={0}
          max={POSITIONS}
          step={range.bend === 1 ? (POSITIONS * range.step) / (range.high - range.low) : "any"}
          value={toPosition(Number(value), range)}
          onInput={(event) => set(toValue((event.target as HTMLInputElement).valueAsNumber, range))}
          onKeyDown={keys}
        />
      )}
      <input
        type="number"
        {...common(props)}
        min={field.schema.minimum}
        max={field.schema.maximum}
        step={field.schema.multipleOf ?? (field.schema.type === "integer" ? 1 : "any")}
        value={value == null ? "" : String(value)}
        placeholder={field.nullable ? "automatic" : ""}
        onInput={read}
      />
    </div>
  );
}

function Chips(props: Control) {
  const { field, set } = props;
  const items = (props.value as (string | number)[] | null | undefined) ?? [];
  const [text, setText] = useState("");
  const known = (field.schema.items?.anyOf ?? [field.schema.items ?? {}]).flatMap((branch) => branch.enum ?? []);
  const full = items.length >= (field.schema.maxItems ?? Infinity);
  const put = (next: (string | number)[]) => set(next.length || !field.nullable ? next : null);
  const add = () => {
    const item = itemOf(text.trim(), field.schema.items ?? {});
    if (text.trim() === "" || item === undefined || full) return;
    put([...items, item]);
    setText("");
  };
  const keys = (event: KeyboardEvent) => {
    if (event.key === "Enter") {
      event.preventDefault();
      add();
    } else if (event.key === "Backspace" && text === "" && items.length) put(items.slice(0, -1));
  };
  return (
    <div class="chips">
      {items.map((item, index) => (
        <span class="chip" key={`${index}-${item}`}>
          {String(item)}
          <button type="button" aria-label={`Remove ${item}`} onClick={() => put(items.filter((_, other) => other !== index))}>
            ×
          </button>
        </span>
      ))}
      <input
        type="text"
        {...common(props)}
        list={known.length ? `${props.id}-known` : undefined}
        value={text}
        disabled={full}
        placeholder={full ? "no more" : "add, then Enter"}
        onInput={(event) => setText((event.target as HTMLInputElement).value)}
        onKeyDown={keys}
        onBlur={add}
      />
      {known.length > 0 && (
        <datalist id={`${props.id}-known`}>
          {known.map((name) => (
            <option key={name} value={String(name)} />
          ))}
        </datalist>
      )}
    </div>
  );
}

/** Anything deeper, as JSON; what does not parse is shown and not sent. */
function Json(props: Control) {
  const { field, value, set } = props;
  const [text, setText] = useState(value === undefined || value === null ? "" : JSON.stringify(value));
  const [broken, setBroken] = useState(false);
  const read = (event: Event) => {
    const typed = (event.target as HTMLTextAreaElement).value;
    setText(typed);
    try {
      set(typed.trim() === "" ? (field.initial ?? undefined) : JSON.parse(typed));
      setBroken(false);
    } catch {
      setBroken(true);
    }
  };
  const example = field.schema.examples?.[0];
  return (
    <>
      <textarea
        rows={2}
        class="code"
        spellcheck={false}
        {...common(props)}
        aria-invalid={broken || props.invalid}
        value={text}
        placeholder={example === undefined ? "JSON" : JSON.stringify(example)}
        onInput={read}
      />
      {broken && <p class="wrong">Not valid JSON yet; the last valid value is used.</p>}
    </>
  );
}
