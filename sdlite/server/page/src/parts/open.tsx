// A picture chosen with the system's own dialog, for those who cannot drag one in.
import { useRef } from "preact/hooks";
import { dropped } from "../lib/draw";
import { t } from "../lib/i18n";
import { attempt } from "../lib/jobs";
import { Icon } from "./icon";

interface ChooserProps {
  label: string;
  look: "secondary" | "open";
  take: (file: File) => void;
}

/** A button that asks for a file; the field itself is no stop of its own for keys and readers. */
export function Chooser({ label, look, take }: ChooserProps) {
  const field = useRef<HTMLInputElement>(null);
  return (
    <>
      <button type="button" class={look} onClick={() => field.current?.click()}>
        <Icon name="open" />
        {label}
      </button>
      <input
        ref={field}
        hidden
        type="file"
        accept="image/*"
        onChange={(event) => {
          const [file] = event.currentTarget.files ?? [];
          event.currentTarget.value = ""; // The same file may be chosen again.
          if (file) take(file);
        }}
      />
    </>
  );
}

export const OpenPicture = () => (
  <Chooser label={t("open.label")} look="open" take={(file) => void attempt(dropped(file))} />
);
