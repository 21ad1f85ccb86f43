// LoRAs and embeddings of the model folders.
import { t } from "../lib/i18n";
import { choices, set, settings } from "../lib/settings";
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
      {free.length > 0 && (
        <ul class="assets" aria-label={t("loras.add")}>
          {free.map((item) => (
            <li key={item.name}>
              <button
                type="button"
                onClick={() => set({ loras: [...used, { name: item.name, unet: 1 }] })}
              >
                {item.preview ? <img src={item.preview} alt="" loading="lazy" /> : <i />}
                <span>{item.name}</span>
              </button>
            </li>
          ))}
        </ul>
      )}
      {embeddings.length > 0 && (
        <>
          <h3>{t("embeddings.label")}</h3>
          <div class="chips">
            {embeddings.map(({ name }) => (
              <button
                key={name}
                type="button"
                class="chip"
                onClick={() => set({ prompt: `${settings.peek().prompt} ${name}`.trim() })}
              >
                {name}
              </button>
            ))}
          </div>
        </>
      )}
    </Fold>
  );
}
