// The page: header, one of its views, notices.
import { effect } from "@preact/signals";
import { render } from "preact";
import { online } from "./lib/api";
import { dropped, offered, page, continueFrom } from "./lib/draw";
import * as forecast from "./lib/forecast";
import * as gallery from "./lib/gallery";
import * as i18n from "./lib/i18n";
import { t } from "./lib/i18n";
import { active, attempt, news, report, resume } from "./lib/jobs";
import * as kept from "./lib/kept";
import * as keys from "./lib/keys";
import * as live from "./lib/live";
import * as paint from "./lib/paint";
import { pictureIn } from "./lib/pictures";
import { loadChoices } from "./lib/settings";
import { Header } from "./parts/header";
import { Help } from "./parts/help";
import { Notice } from "./parts/notice";
import { Panel } from "./parts/panel";
import { Stage } from "./parts/stage";
import { Strip } from "./parts/strip";
import { Gallery } from "./views/gallery";
import { Grid } from "./views/grid";
import { Setup } from "./views/setup";

function View() {
  if (page.value === "gallery") return <Gallery />;
  if (page.value === "grid") return <Grid />;
  if (page.value === "setup") return <Setup />;
  return (
    <div class="draw">
      <Panel />
      <div class="middle">
        <Stage />
        <Strip />
      </div>
    </div>
  );
}

function App() {
  return (
    <>
      <a class="skip" href="#main">
        {t("skip")}
      </a>
      <Header />
      {!online.value && (
        <p class="banner" role="alert">
          {t("offline")}
        </p>
      )}
      <main id="main" tabIndex={-1}>
        <View />
      </main>
      {offered.value && (
        <p class="banner calm" role="status">
          {t("drop.offer")}{" "}
          <button
            type="button"
            class="link"
            onClick={() => {
              const file = offered.peek();
              offered.value = null;
              if (file) void continueFrom(file);
            }}
          >
            {t("drop.continue")}
          </button>
          <button type="button" class="link" onClick={() => (offered.value = null)}>
            {t("error.close")}
          </button>
        </p>
      )}
      <Notice />
      <Help />
    </>
  );
}

function acceptDrops(): void {
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    const file = pictureIn(event.dataTransfer);
    if (!file) return;
    event.preventDefault();
    void attempt(dropped(file));
  });
  addEventListener("paste", (event) => {
    const file = pictureIn(event.clipboardData);
    if (file) void attempt(dropped(file));
  });
}

/** How far it is, for those who look at another tab meanwhile. */
function entitle(): void {
  const ticket = active.value;
  const share = ticket && !ticket.live ? `${Math.floor(ticket.job.share * 100)} % · ` : "";
  document.title = `${share}sdlite`;
}

async function load(): Promise<void> {
  try {
    await loadChoices();
    await resume();
  } catch (error) {
    report(error);
  }
}

async function start(): Promise<void> {
  await i18n.begin();
  render(<App />, document.getElementById("app") as HTMLElement);
  keys.begin();
  acceptDrops();
  await load();
  forecast.begin();
  gallery.begin();
  paint.begin();
  void kept.begin();
  live.begin();
  effect(entitle);
  // Another tab, or a phone, may have drawn meanwhile.
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState !== "visible") return;
    void attempt(resume());
    news.value++;
  });
  // After a lost connection everything may be otherwise.
  let first = true;
  effect(() => {
    if (online.value && !first) void load();
    first = false;
  });
}

void start();
