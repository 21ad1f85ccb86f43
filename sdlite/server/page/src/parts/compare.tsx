// Two pictures in one place, with a line between them that can be moved.
import { useState } from "preact/hooks";
import { t } from "../lib/i18n";
import type { Picture } from "../lib/types";

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
