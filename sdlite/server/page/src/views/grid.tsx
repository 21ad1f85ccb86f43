// X/Y grids: what a setting does, seen side by side.
import type { Signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { page } from "../lib/draw";
import { plan } from "../lib/forecast";
import * as grid from "../lib/grid";
import { about, t } from "../lib/i18n";
import { report, show } from "../lib/jobs";
import { download } from "../lib/pictures";
import { choices, model, settings, source } from "../lib/settings";
import { Choice, Problem } from "../parts/fields";

function AxisFields({ line, label, id }: { line: Signal<grid.Line>; label: string; id: string }) {
  const { axis, text } = line.value;
  const axes = grid.AXES.filter((name) => name !== "strength" || source.value);
  return (
    <fieldset class="axis">
      <legend>{label}</legend>
      <Choice
        label={t("grid.setting")}
        value={axis}
        options={axes.map((name) => [name, t(`axis.${name}`)])}
        set={(name) => (line.value = { axis: (name ?? "steps") as grid.Axis, text: "" })}
      />
      <div class="field">
        <label for={id}>{t("grid.values")}</label>
        <input
          id={id}
          list={axis === "sampler" ? "samplers" : undefined}
          placeholder={t(`axis.${axis}.example`)}
          value={text}
          onInput={(event) => (line.value = { axis, text: event.currentTarget.value })}
        />
      </div>
    </fieldset>
  );
}

export function Grid() {
  const [problem, tell] = useState("");
  const count =
    Math.max(grid.values(grid.x.value).length, 1) * Math.max(grid.values(grid.y.value).length, 1);
  const each = plan.value?.seconds;
  const seconds = each ? grid.work(model.value?.steps) * each : undefined;
  const drawn = grid.cells.value.some((cell) => cell && typeof cell === "object");
  const run = async () => {
    tell("");
    try {
      await grid.run();
    } catch (error) {
      if (error instanceof RangeError) tell(error.message);
      else report(error);
    }
  };
  return (
    <section class="grid-view" aria-label={t("nav.grid")}>
      <p class="lead">{settings.value.prompt || t("grid.no-prompt")}</p>
      <datalist id="samplers">
        {choices.value.samplers.map((name) => (
          <option key={name} value={name} />
        ))}
      </datalist>
      <div class="axes">
        <AxisFields line={grid.x} label={t("grid.x")} id="grid-x" />
        <AxisFields line={grid.y} label={t("grid.y")} id="grid-y" />
      </div>
      {problem && <Problem title={t("grid.bad", { value: problem })} />}
      <div class="row">
        {grid.busy.value ? (
          <button type="button" class="secondary" onClick={() => void grid.stop()}>
            {t("stage.cancel")}
          </button>
        ) : (
          <button
            type="button"
            class="primary"
            disabled={count < 2 || count > grid.MOST || !settings.value.prompt.trim()}
            onClick={() => void run()}
          >
            {count < 2 ? t("draw.button") : t("grid.draw", { n: count })}
          </button>
        )}
        <span class="muted" role="status">
          {count > grid.MOST
            ? t("grid.many", { n: grid.MOST })
            : count < 2
              ? t("grid.few")
              : seconds
                ? about(seconds)
              : ""}
        </span>
        {drawn && !grid.busy.value && (
          <button
            type="button"
            class="link"
            onClick={() => void grid.whole().then((url) => download(url, "sdlite-grid.png"))}
          >
            {t("grid.save")}
          </button>
        )}
      </div>
      {grid.cells.value.length > 0 && <Table />}
    </section>
  );
}

function Table() {
  const columns = grid.across.value;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={t("grid.result")}>
      <table>
        <thead>
          <tr>
            <td />
            {columns.map((label) =>
              label ? (
                <th key={label} scope="col">
                  {label}
                </th>
              ) : (
                <td key={label} />
              ),
            )}
          </tr>
        </thead>
        <tbody>
          {grid.down.value.map((label, row) => (
            <tr key={label}>
              {label ? <th scope="row">{label}</th> : <td />}
              {columns.map((column, at) => (
                <td key={column}>
                  <Cell cell={grid.cells.value[row * columns.length + at] ?? null} name={`${label} ${column}`} />
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Cell({ cell, name }: { cell: (typeof grid.cells.value)[number]; name: string }) {
  if (cell === null || cell === "wait" || cell === "failed") {
    return <i class={`cell ${cell ?? ""}`}>{cell === "failed" ? t("grid.failed") : ""}</i>;
  }
  return (
    <button
      type="button"
      aria-label={name}
      onClick={() => {
        show([cell]);
        page.value = "draw";
      }}
    >
      <img src={cell.url} alt="" />
    </button>
  );
}
