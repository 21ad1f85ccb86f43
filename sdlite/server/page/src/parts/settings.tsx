// Size, steps, guidance, sampler, seed; everything else folded away.
import { has, t } from "../lib/i18n";
import { FRESH, choices, model, set, settings, size, source } from "../lib/settings";
import { Choice, Digits, Fold, NumberField } from "./fields";
import { GuideFields } from "./guide";
import { Icon } from "./icon";
import { Loras } from "./loras";

const SIDE = { min: 8, max: 4096, step: 8 };
const MOST_SEED = Number.MAX_SAFE_INTEGER;
const RATIOS = [
  ["square", 1, 1],
  ["landscape", 3, 2],
  ["portrait", 2, 3],
  ["wide", 16, 9],
] as const;

/** A size of about the model's own area, in steps the model knows. */
function sized(across: number, down: number): [number, number] {
  const [width = 512, height = 512] = [model.value?.width, model.value?.height];
  const grid = Math.min(width, height) > 256 ? 64 : 8;
  const scale = Math.sqrt((width * height) / (across * down));
  const round = (side: number) => Math.max(Math.round((side * scale) / grid) * grid, grid);
  return [round(across), round(down)];
}

function Size() {
  const [width, height] = size.value;
  return (
    <fieldset class="size">
      <legend>{t("size.label")}</legend>
      <div class="ratios">
        {RATIOS.map(([name, across, down]) => {
          const [w, h] = sized(across, down);
          const own = w === model.value?.width && h === model.value?.height;
          return (
            <button
              key={name}
              type="button"
              class="ratio"
              aria-pressed={w === width && h === height}
              title={`${t(`size.${name}`)} ${w} × ${h}`}
              onClick={() => set(own ? { width: null, height: null } : { width: w, height: h })}
            >
              <i class={name} />
              <span class="visually-hidden">{t(`size.${name}`)}</span>
            </button>
          );
        })}
      </div>
      <div class="sides">
        <Digits
          label={t("size.width")}
          {...SIDE}
          value={settings.value.width}
          usual={width}
          set={(side) => set({ width: side })}
        />
        <span aria-hidden="true">×</span>
        <Digits
          label={t("size.height")}
          {...SIDE}
          value={settings.value.height}
          usual={height}
          set={(side) => set({ height: side })}
        />
      </div>
    </fieldset>
  );
}

function Seed() {
  return (
    <div class="field">
      <label for="seed">{t("seed.label")}</label>
      <div class="with-button">
        <Digits
          id="seed"
          value={settings.value.seed}
          usual={t("seed.random")}
          min={0}
          max={MOST_SEED}
          set={(seed) => set({ seed })}
        />
        <button
          type="button"
          class="quiet"
          title={t("seed.new")}
          aria-label={t("seed.new")}
          disabled={settings.value.seed === null}
          onClick={() => set({ seed: null })}
        >
          <Icon name="dice" />
        </button>
      </div>
    </div>
  );
}

export function Settings() {
  const now = settings.value;
  const { models, samplers, schedules, profiles } = choices.value;
  const own = model.value;
  const ready = models.filter((item) => !item.problem).map((item) => item.name);
  return (
    <div class="settings">
      {ready.length > 1 && (
        <Choice
          label={t("model.label")}
          value={own?.name ?? null}
          options={ready}
          set={(name) => set({ model: name })}
        />
      )}
      {profiles.length > 0 && <Profiles names={profiles} />}
      {!source.value && <Size />}
      <NumberField
        label={t("steps.label")}
        value={now.steps}
        usual={own?.steps}
        min={1}
        max={150}
        slider={60}
        set={(steps) => set({ steps })}
      />
      <NumberField
        label={t("guidance.label")}
        value={now.guidance}
        usual={own?.guidance}
        min={0}
        max={30}
        step={0.5}
        slider={15}
        set={(guidance) => set({ guidance })}
      />
      <div class="pair">
        <Choice
          label={t("sampler.label")}
          value={now.sampler}
          options={samplers}
          usual={own?.sampler ?? t("choice.usual")}
          set={(sampler) => set({ sampler })}
        />
        <Seed />
      </div>
      <Loras />
      <GuideFields />
      <Fold title={t("more.label")}>
        <div class="pair">
          <Choice
            label={t("schedule.label")}
            value={now.schedule}
            options={schedules}
            usual={t("choice.usual")}
            set={(schedule) => set({ schedule })}
          />
          <NumberField
            label={t("images.label")}
            value={now.images}
            min={1}
            max={16}
            set={(images) => set({ images: images ?? 1 })}
          />
        </div>
        <div class="pair">
          {!source.value && (
            <Choice
              label={t("hires.label")}
              value={String(now.hires)}
              options={[["1", t("hires.off")], ["1.5", "× 1.5"], ["2", "× 2"]]}
              set={(scale) => set({ hires: Number(scale ?? 1) })}
            />
          )}
          <NumberField
            label={t("clip-skip.label")}
            value={now.clip_skip}
            min={1}
            max={12}
            set={(skip) => set({ clip_skip: skip ?? 1 })}
          />
        </div>
      </Fold>
      <button
        type="button"
        class="link"
        onClick={() => set({ ...FRESH, prompt: now.prompt, model: now.model })}
      >
        {t("settings.reset")}
      </button>
    </div>
  );
}

function Profiles({ names }: { names: string[] }) {
  const now = settings.value.profile ?? names[0];
  const about = `profile.${now}-about`;
  return (
    <fieldset class="profiles">
      <legend>{t("profile.label")}</legend>
      <div class="segments">
        {names.map((name) => (
          <label key={name}>
            <input
              type="radio"
              name="profile"
              checked={now === name}
              onChange={() => set({ profile: name })}
            />
            <span>{t(`profile.${name}` as Parameters<typeof t>[0])}</span>
          </label>
        ))}
      </div>
      {has(about) && <small>{t(about)}</small>}
    </fieldset>
  );
}
