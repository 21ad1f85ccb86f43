// Name, views, language, help.
import { type Page, page } from "../lib/draw";
import { LANGUAGES, type Language, language, speak, t } from "../lib/i18n";
import { help } from "../lib/keys";
import { Icon } from "./icon";

const PAGES: Page[] = ["draw", "gallery", "grid", "setup"];

export function Header() {
  return (
    <header>
      <h1>sdlite</h1>
      <nav aria-label={t("nav.label")}>
        {PAGES.map((name) => (
          <button
            key={name}
            type="button"
            aria-current={page.value === name ? "page" : undefined}
            onClick={() => (page.value = name)}
          >
            {t(`nav.${name}`)}
          </button>
        ))}
      </nav>
      <select
        class="language"
        aria-label={t("language.label")}
        value={language.value}
        onChange={(event) => void speak(event.currentTarget.value as Language)}
      >
        {Object.entries(LANGUAGES).map(([code, name]) => (
          <option key={code} value={code} lang={code}>
            {name}
          </option>
        ))}
      </select>
      <button
        type="button"
        class="quiet"
        aria-label={t("help.title")}
        title={t("help.title")}
        onClick={() => (help.value = true)}
      >
        <Icon name="help" />
      </button>
    </header>
  );
}
