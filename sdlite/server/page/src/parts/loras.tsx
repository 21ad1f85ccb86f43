// LoRAs and embeddings of the model folders.
import { useId } from "preact/hooks";
import { t } from "../lib/i18n";
import { choices, set, settings } from "../lib/settings";
import type { Asset } from "../lib/types";
import { Fold, NumberField } from "./fields";
import { Icon } from "./icon";

export function Loras() {
  const { loras, embeddings } = choices.value;
  const used = settings.value.loras;
  if (loras.length === 0 && embeddings.length === 0) return null;
  const free = loras.filter((item) => !used.some(({ name }) => name === item.name));
  return (
    <Fold title={t("loras.label")} note={used.map(({ name }) => name).join(", ")}>
      {used.map((item) => (
        <div class="lora" key={item.name}>
          <NumberField
            label={item.name}
            value={item.unet}
            min={-2}
            max={2}
            step={0.05}
            slider={2}
            set={(unet) =>
              set({
                loras: used.map((other) =>
                  other.name === item.name ? { ...item, unet: unet ?? 1 } : other,
                ),
              })
            }
          />
          <button
            type="button"
            class="quiet"
            aria-label={t("loras.remove", { name: item.name })}
            onClick={() => set({ loras: used.filter((other) => other.name !== item.name) })}
          >
            <Icon name="close" />
          </button>
        </div>
      ))}
      <Assets
        title={t("loras.add")}
        items={free}
        pick={(name) => set({ loras: [...used, { name, unet: 1 }] })}
      />
      <Assets
        title={t("embeddings.add")}
        items={embeddings}
        pick={(name) => set({ prompt: `${settings.peek().prompt} ${name}`.trim() })}
      />
    </Fold>
  );
}

interface AssetsProps {
  title: string;
  items: Asset[];
  pick: (name: string) => void;
}

/** Files by their names and pictures. */
function Assets({ title, items, pick }: AssetsProps) {
  const id = useId();
  if (items.length === 0) return null;
  return (
    <>
      <p class="under" id={id}>
        {title}
      </p>
      <ul class="assets" aria-labelledby={id}>
        {items.map(({ name, preview }) => (
          <li key={name}>
            <button type="button" title={name} onClick={() => pick(name)}>
              {preview ? <img src={preview} alt="" loading="lazy" /> : <i>{name.slice(0, 2)}</i>}
              <span>{name}</span>
            </button>
          </li>
        ))}
      </ul>
    </>
  );
}
