// Fields of the form: labelled, small, with the model's own value where none is given.
import type { ComponentChildren } from "preact";
import { useId, useState } from "preact/hooks";
import { t } from "../lib/i18n";

interface DigitsProps {
  id?: string;
  label?: string;
  value: number | null;
  usual?: number | string | undefined;
  min: number;
  max: number;
  step?: number;
  set: (value: number | null) => void;
}

/** A field for a number. What is typed counts at once, and is tidied when the field is left. */
export function Digits({ id, label, value, usual = "", min, max, step = 1, set }: DigitsProps) {
  const [typed, type] = useState<string | null>(null);
  const read = (text: string) => {
    const number = Number(text.replace(",", "."));
    if (text.trim() === "") set(null);
    else if (Number.isFinite(number)) {
      const whole = step >= 1 ? Math.round(number / step) * step : number;
      set(Math.min(Math.max(whole, min), max));
    }
  };
  return (
    <input
      id={id}
      aria-label={label}
      inputMode={step < 1 ? "decimal" : "numeric"}
      autocomplete="off"
      value={typed ?? value ?? ""}
      placeholder={String(usual)}
      onInput={(event) => {
        type(event.currentTarget.value);
        read(event.currentTarget.value);
      }}
      onBlur={() => type(null)}
      onKeyDown={(event) => {
        const way = { ArrowUp: 1, ArrowDown: -1 }[event.key];
        if (way === undefined) return;
        event.preventDefault();
        type(null);
        const from = value ?? (typeof usual === "number" ? usual : min);
        set(Math.min(Math.max(Number((from + way * step).toFixed(4)), min), max));
      }}
    />
  );
}

interface NumberProps {
  label: string;
  value: number | null;
  usual?: number | undefined;
  min: number;
  max: number;
  step?: number;
  slider?: number;
  set: (value: number | null) => void;
}

/** A number, with a slider where it helps; empty is the model's own. */
export function NumberField(props: NumberProps) {
  const id = useId();
  const { label, value, usual, min, max, step = 1, slider, set } = props;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <div class="with-slider">
        {slider !== undefined && (
          <input
            type="range"
            aria-label={label}
            min={min}
            max={slider}
            step={step}
            value={Math.min(value ?? usual ?? min, slider)}
            onInput={(event) => set(Number(event.currentTarget.value))}
          />
        )}
        <Digits {...{ id, value, usual, min, max, step, set }} />
      </div>
    </div>
  );
}

interface ChoiceProps {
  label: string;
  value: string | null;
  options: readonly (string | readonly [string, string])[];
  usual?: string | undefined;
  set: (value: string | null) => void;
}

/** One of a list; the first entry is the model's own where `usual` is given. */
export function Choice({ label, value, options, usual, set }: ChoiceProps) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <select
        id={id}
        value={value ?? ""}
        onChange={(event) => set(event.currentTarget.value || null)}
      >
        {usual !== undefined && <option value="">{usual}</option>}
        {options.map((option) => {
          const [name, text] = typeof option === "string" ? [option, option] : option;
          return (
            <option key={name} value={name}>
              {text}
            </option>
          );
        })}
      </select>
    </div>
  );
}

interface SwitchProps {
  label: string;
  on: boolean;
  disabled?: boolean;
  hint?: string | undefined;
  set: (on: boolean) => void;
}

export function Switch({ label, on, disabled, hint, set }: SwitchProps) {
  return (
    <label class="switch" title={hint}>
      <input
        type="checkbox"
        role="switch"
        checked={on}
        disabled={disabled ?? false}
        onChange={(event) => set(event.currentTarget.checked)}
      />
      <span>{label}</span>
    </label>
  );
}

export function Fold(props: { title: string; note?: string; children: ComponentChildren }) {
  return (
    <details class="fold">
      <summary>
        <span>{props.title}</span>
        {props.note && <small>{props.note}</small>}
      </summary>
      <div class="inside">{props.children}</div>
    </details>
  );
}

/** What went wrong, in words, and what to do. */
export function Problem(props: { title: string; detail?: string; children?: ComponentChildren }) {
  return (
    <div class="problem" role="alert">
      <strong>{props.title}</strong>
      {props.detail && (
        <details>
          <summary>{t("error.detail")}</summary>
          <p>{props.detail}</p>
        </details>
      )}
      {props.children}
    </div>
  );
}
