// Two pictures in one place, with a line between them that can be moved.
import { useState } from "preact/hooks";
import { type Key, t } from "../lib/i18n";
import { differences } from "../lib/pictures";
import type { Picture } from "../lib/types";

const NAMES: Record<string, Key> = {
  Prompt: "prompt.label",
  "Negative prompt": "negative.label",
};

/** What the two were drawn with, where it is not the same. */
export function Differences({ before, after }: { before: Picture; after: Picture }) {
  const found = before.infotext ? differences(before, after) : [];
  return (
    <div class="differences">
      <p class="hint">{t("compare.hint")}</p>
      {found.length > 0 && (
        <table>
          <thead class="visually-hidden">
            <tr>
              <th scope="col">{t("grid.setting")}</th>
              <th scope="col">{t("compare.before")}</th>
              <th scope="col">{t("compare.after")}</th>
            </tr>
          </thead>
          <tbody>
            {found.map(([name, value, changed]) => (
              <tr key={name}>
                <th scope="row">{NAMES[name] ? t(NAMES[name]) : name}</th>
                <td>{value}</td>
                <td>{changed}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </div>
  );
}

export function Compare({ before, after }: { before: Picture; after: Picture }) {
  const [at, move] = useState(50);
  return (
    <figure class="frame compare" style={{ "--w": after.width, "--h": after.height }}>
      <img src={after.url} alt={t("compare.after")} />
      <img
        src={before.url}
        alt={t("compare.before")}
        style={{ clipPath: `inset(0 ${100 - at}% 0 0)` }}
      />
      <i class="line" style={{ left: `${at}%` }} />
      <input
        type="range"
        min={0}
        max={100}
        value={at}
        aria-label={t("compare.slider")}
        onInput={(event) => move(Number(event.currentTarget.value))}
      />
      <figcaption>
        <span>{t("compare.before")}</span>
        <span>{t("compare.after")}</span>
      </figcaption>
    </figure>
  );
}
