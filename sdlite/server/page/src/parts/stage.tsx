// The middle of everything: the picture.
import { compared, editing, stop } from "../lib/draw";
import { duration, t } from "../lib/i18n";
import { type Ticket, active, chosen, current, failed, shown, tickets } from "../lib/jobs";
import { small } from "../lib/gallery";
import { parameters, told } from "../lib/pictures";
import { size, source } from "../lib/settings";
import type { Picture } from "../lib/types";
import { Actions } from "./actions";
import { Compare, Differences } from "./compare";
import { Editor } from "./editor";
import { Trouble } from "./trouble";

export function Stage() {
  return (
    <section class="stage" aria-label={t("stage.label")}>
      {source.value && <Tabs />}
      <Content />
    </section>
  );
}

function Tabs() {
  return (
    <div class="segments tabs">
      {([false, true] as const).map((edits) => (
        <label key={String(edits)}>
          <input
            type="radio"
            name="stage"
            checked={editing.value === edits}
            onChange={() => (editing.value = edits)}
          />
          <span>{t(edits ? "stage.source" : "stage.result")}</span>
        </label>
      ))}
    </div>
  );
}

function Content() {
  const ticket = active.value;
  const picture = current.value;
  if (editing.value && source.value) return <Editor />;
  if (failed.value) return <Trouble />;
  if (ticket && !(ticket.live && picture)) return <Running ticket={ticket} />;
  if (!picture) return <Empty />;
  const against = compared.value?.url === picture.url ? null : compared.value;
  return (
    <>
      {against ? (
        <Compare before={against} after={picture} />
      ) : (
        <Figure picture={picture} />
      )}
      {shown.value.length > 1 && <Others />}
      <Actions picture={picture} />
      {against ? <Differences before={against} after={picture} /> : <Caption picture={picture} />}
    </>
  );
}

function Empty() {
  const [width, height] = size.value;
  return (
    <div class="frame empty" style={{ "--w": width, "--h": height }}>
      <p>{t("stage.empty")}</p>
      <small>{t("stage.drop")}</small>
    </div>
  );
}

function Figure({ picture }: { picture: Picture }) {
  return (
    <figure class="frame" style={{ "--w": picture.width, "--h": picture.height }}>
      <img
        src={picture.url}
        alt={told(picture.infotext).prompt}
        onLoad={(event) => {
          // Outpainted pictures are larger than what was asked for.
          const { naturalWidth: w, naturalHeight: h, parentElement } = event.currentTarget;
          parentElement?.style.setProperty("--w", String(w));
          parentElement?.style.setProperty("--h", String(h));
        }}
      />
    </figure>
  );
}

function Others() {
  return (
    <div class="others">
      {shown.value.map((item, number) => (
        <button
          key={item.url}
          type="button"
          aria-current={number === chosen.value}
          aria-label={t("stage.nth", { n: number + 1 })}
          onClick={() => (chosen.value = number)}
        >
          <img src={small(item)} alt="" />
        </button>
      ))}
    </div>
  );
}

function Running({ ticket }: { ticket: Ticket }) {
  const { job, preview } = ticket;
  const waits = job.state === "queued";
  const others = tickets.value.length - 1;
  const left = job.seconds_left;
  return (
    <>
      <figure
        class={preview ? "frame drawing" : "frame drawing blank"}
        style={{ "--w": job.width, "--h": job.height }}
      >
        {preview ? (
          <img src={`data:image/png;base64,${preview}`} alt={t("stage.preview")} />
        ) : (
          ticket.body?.edit && <img class="faint" src={source.value?.url} alt="" />
        )}
      </figure>
      <div class="progress">
        <progress value={job.share} max={1} aria-label={t("stage.progress")} />
        <p>
          <strong>
            {waits
              ? t("stage.queued", { n: job.position ?? 0 })
              : job.step === 0
                ? t("stage.begins")
                : t("stage.step", { n: job.step, of: job.steps })}
          </strong>
          {left !== null && <span>{t("stage.left", { time: duration(left) })}</span>}
          {others > 0 && <span>{t("stage.more", { n: others })}</span>}
        </p>
        <button type="button" class="secondary" onClick={() => void stop()}>
          {t("stage.cancel")} <kbd>Esc</kbd>
        </button>
      </div>
    </>
  );
}

function Caption({ picture }: { picture: Picture }) {
  const { prompt, negative } = told(picture.infotext);
  return (
    <div class="caption">
      <p>{prompt}</p>
      <details>
        <summary>{t("caption.settings")}</summary>
        {negative && (
          <p>
            <small>{t("negative.label")}</small> {negative}
          </p>
        )}
        <ul class="rest">
          {[...parameters(picture.infotext)].map(([name, value]) => (
            <li key={name}>
              <small>{name}:</small> {value}{" "}
            </li>
          ))}
        </ul>
      </details>
    </div>
  );
}
