// The picture to continue from, in the form: how much of it changes, and where.
import { editing } from "../lib/draw";
import { t } from "../lib/i18n";
import { extends_, margins, mask, set, setSource, settings, source } from "../lib/settings";
import type { Margins } from "../lib/types";
import { Choice, NumberField, Switch } from "./fields";
import { Icon } from "./icon";

const SIDES: (keyof Margins)[] = ["left", "top", "right", "bottom"];

export function SourceCard() {
  const from = source.value;
  if (!from) return null;
  const now = settings.value;
  return (
    <section class="source" aria-label={t("source.label")}>
      <button
        type="button"
        class="thumb"
        aria-label={t("source.show")}
        onClick={() => (editing.value = true)}
      >
        <img src={from.url} alt="" />
      </button>
      <div class="about">
        <strong>
          {t(extends_.value ? "source.extend" : mask.value ? "source.paint" : "source.change")}
        </strong>
        <small>
          {from.width} × {from.height}
        </small>
      </div>
      <button
        type="button"
        class="quiet"
        aria-label={t("source.remove")}
        title={t("source.remove")}
        onClick={() => {
          setSource(null);
          editing.value = false;
        }}
      >
        <Icon name="close" />
      </button>
      <div class="wide">
        {!extends_.value && (
          <NumberField
            label={t("strength.label")}
            value={now.strength}
            min={0.05}
            max={1}
            step={0.05}
            slider={1}
            set={(strength) => set({ strength: strength ?? 0.6 })}
          />
        )}
        {mask.value && !extends_.value && (
          <>
            <div class="pair">
              <Choice
                label={t("content.label")}
                value={now.mask_content}
                options={[
                  ["original", t("content.original")],
                  ["fill", t("content.fill")],
                  ["noise", t("content.noise")],
                ]}
                set={(content) => set({ mask_content: content ?? "original" })}
              />
              <NumberField
                label={t("blur.label")}
                value={now.mask_blur}
                min={0}
                max={64}
                set={(blur) => set({ mask_blur: blur ?? 4 })}
              />
            </div>
            <Switch
              label={t("only-masked.label")}
              on={now.only_masked}
              set={(only_masked) => set({ only_masked })}
            />
          </>
        )}
        <fieldset class="margins">
          <legend>{t("margins.label")}</legend>
          {SIDES.map((name) => (
            <NumberField
              key={name}
              label={t(`margins.${name}`)}
              value={margins.value[name]}
              min={0}
              max={1024}
              step={8}
              set={(value) => (margins.value = { ...margins.peek(), [name]: value ?? 0 })}
            />
          ))}
        </fieldset>
      </div>
    </section>
  );
}
